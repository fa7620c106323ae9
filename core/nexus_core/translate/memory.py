"""What one translation may take over from the one before: results whose every ground is as it was.

A result is kept together with what was asked for it and what was answered. Before it is used again the same is asked of the
new world: when each answer is the same, so would be the result. Nothing has to know what a change may touch, so nothing can
be forgotten to be told. What came out of trouble (a broken route, a last good version) is made anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef
from nexus_core.snapshot import Route, Upstream

T = TypeVar("T")

Asked = tuple[Callable[..., Any], tuple[Any, ...], Any]
"""A question (an unbound function of what is asked), its arguments, the answer."""


@dataclass(slots=True)
class Kept:
    """A result and its grounds. resource: what it was made from. asked: in the order in which it was asked."""

    resource: Resource
    asked: tuple[Asked, ...]
    result: Any


class Log:
    """Writes down what is asked while a result is made. sound: whether that is all the result depends on."""

    __slots__ = ("_answers", "sound")

    def __init__(self) -> None:
        self._answers: dict[tuple[Any, ...], Any] = {}
        self.sound = True

    def ask(self, question: Callable[..., T], subject: Any, *arguments: Any) -> T:
        """Return the answer. question: a function of the subject and hashable arguments, of nothing else, that may be asked again."""
        key = (question, arguments)
        if key not in self._answers:
            self._answers[key] = question(subject, *arguments)
        answer: T = self._answers[key]
        return answer

    def asked(self) -> tuple[Asked, ...]:
        """Return all that was asked, each once, in order."""
        return tuple((question, arguments, answer) for (question, arguments), answer in self._answers.items())


@dataclass(frozen=True, slots=True)
class Finished:
    """A route without and with policies. gateways: through which it is reached. backends: upstreams that it leads to, sorted.
    upstreams: these, as they were when the policies were put on. called: what the finished one names. done: None for one that is not.
    """

    route: Route
    gateways: frozenset[ObjectRef]
    backends: tuple[str, ...]
    upstreams: tuple[Upstream | None, ...] = ()
    done: Route | None = None
    called: frozenset[str] = frozenset()


@dataclass
class Memory:
    """Of one world after another. A field is empty at first; who writes it says what is in it.

    routes: by object: what building it gave. upstreams: as Services make them, by id, so that equal ones are one object.
    listeners: of each parent. plugins: routes without and with plugins, by id, under `plugins_of`, all that plugins say. merged: upstreams
    without policies, the Gateways they are reached through, and with policies, by id; finished: routes, by id; both under `policies_of`,
    all that policies say. markets: by marketplace, what was made of an index and a spec. resolved: what goes together, by the plugins
    that were asked about. hooked: what hooks on manifests made of resources, by object, under the hooks and the resource.
    """

    routes: dict[ObjectRef, Kept] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    listeners: dict[ObjectRef, tuple[Any, ...]] = field(default_factory=dict)
    plugins: dict[str, tuple[Route, Route]] = field(default_factory=dict)
    plugins_of: Any = None
    merged: dict[str, tuple[Upstream, frozenset[ObjectRef], Upstream]] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    policies_of: Any = None
    markets: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)
    resolved: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    hooked: dict[ObjectRef, tuple[Any, Resource, Resource]] = field(default_factory=dict)

    def intern_listeners(self, groups: Iterable[dict[ObjectRef, tuple[Any, ...]]]) -> None:
        """Put the former tuples in the place of equal ones: what did not change is told by identity then."""
        now: dict[ObjectRef, tuple[Any, ...]] = {}
        for group in groups:
            for ref, listeners in group.items():
                former = self.listeners.get(ref)
                if former is not None and former == listeners:
                    group[ref] = listeners = former
                now[ref] = listeners
        self.listeners = now

    def upstream(self, made: Upstream) -> Upstream:
        """Return the former upstream when it is equal."""
        former = self.upstreams.get(made.id)
        if former is not None and former == made:
            return former
        self.upstreams[made.id] = made
        return made

    def end(self, upstreams: Mapping[str, object]) -> None:
        """End a translation: forget upstreams that it did not have."""
        self.upstreams = {name: value for name, value in self.upstreams.items() if name in upstreams}


def holds(kept: Kept, resource: Resource, subjects: Mapping[Callable[..., Any], Any]) -> bool:
    """Whether every ground of a result is as it was. subjects: of whom each question is asked now. Asking may have effects; those
    are the same as when the result was made, as far as it was asked.
    """
    if kept.resource is not resource:
        return False
    for question, arguments, answer in kept.asked:
        now = question(subjects[question], *arguments)
        if now is not answer and now != answer:
            return False
    return True
