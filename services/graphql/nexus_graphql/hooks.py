"""What plugins do to operations: asked before they are executed, and of what they gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from nexus_core.hooks import Operation, Refusal, Resolved
from nexus_sdk.plugins import Unavailable

from nexus_graphql.execute.ports import FormattedError, Outcome

T = TypeVar("T")


class Plugins(Protocol):
    """What is needed of `nexus_sdk.plugins.ServicePlugins`."""

    def hears(self, hook: str) -> bool: ...

    async def change(self, hook: str, value: T, make: Callable[[Any, T], Any]) -> T | Refusal: ...


class Refused(Exception):
    """The operation is not executed. errors: what the client gets instead."""

    def __init__(self, message: str, code: str, reason: str) -> None:
        super().__init__(message)
        self.errors: Sequence[FormattedError] = ({"message": message, "extensions": {"code": code, "reason": reason}},)


class OperationHooks:
    """The hooks of the GraphQL gateway."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    @property
    def wanted(self) -> bool:
        """Whether any plugin has one of them; else no `Operation` needs to be made."""
        return self._plugins.hears("on_operation_parsed") or self._plugins.hears("on_operation_resolved")

    async def parsed(self, operation: Operation) -> Mapping[str, Any]:
        """Return the variables it is executed with. Raises Refused."""
        try:
            result = await self._plugins.change("on_operation_parsed", operation, lambda hook, so_far: hook(so_far))
        except Unavailable as error:
            raise _unavailable(error) from error
        if isinstance(result, Refusal):
            raise Refused(result.message, "REFUSED", result.reason)
        return result.variables

    async def resolved(self, operation: Operation, outcome: Outcome, seconds: float) -> Outcome:
        """Return what the client gets. Raises Refused when a plugin that has to look at it cannot."""
        given = Resolved(outcome.data, tuple(outcome.errors), {}, seconds)
        try:
            result = await self._plugins.change(
                "on_operation_resolved", given, lambda hook, so_far: hook(operation, so_far)
            )
        except Unavailable as error:
            raise _unavailable(error) from error
        assert isinstance(result, Resolved)
        if result is given:
            return outcome
        return Outcome(result.data, result.errors, outcome.started, dict(result.extensions))


def _unavailable(error: Unavailable) -> Refused:
    return Refused(str(error), "PLUGIN_UNAVAILABLE", "PluginUnavailable")
