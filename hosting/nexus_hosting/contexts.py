"""`self.context` of a plugin: what it may use of this process, each use held against what its NexusPlugin grants."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nexus_core.hooks import Called, CallFailed, Headers, NotGranted
from nexus_core.snapshot import PluginInstance

from nexus_hosting import bounds
from nexus_hosting.calling import Caller
from nexus_hosting.hosts import Target, is_permitted, parse_target
from nexus_hosting.means import Means, Reached
from nexus_hosting.owning import Owned
from nexus_hosting.traces import traced

_REDIS_OPTIONS = frozenset(
    {"db", "protocol", "max_connections", "socket_timeout", "socket_connect_timeout", "health_check_interval"}
)
_CLOSE_S = 2.0


class PluginContext:
    """The context of one instance; see `nexus_core.hooks.Context`."""

    def __init__(
        self, instance: PluginInstance, config: Mapping[str, Any], secrets: Mapping[str, str], means: Means
    ) -> None:
        """config: as the plugin has it, for `config:<path>`. secrets: by name, granted ones."""
        self.plugin = instance.id
        self.version = instance.release.version
        self.workers = means.workers
        self.secrets: Mapping[str, str] = MappingProxyType(dict(secrets))
        self.log = logging.getLogger(f"nexus.plugin.{instance.id.replace('/', '.')}")
        self.instance = instance
        self._config = config
        self._means = means
        self._caller = Caller()
        self._redis: dict[str, Any] = {}
        self._owned = Owned(self, self.log)

    @property
    def owned(self) -> Owned:
        """The plugin's tasks."""
        return self._owned

    @property
    def held(self) -> tuple[PluginInstance, Mapping[str, Any], Mapping[str, str]]:
        """What `configure` takes, as it is now."""
        return self.instance, self._config, self.secrets

    def configure(self, instance: PluginInstance, config: Mapping[str, Any], secrets: Mapping[str, str]) -> None:
        """Go on with another configuration, and what it permits."""
        self.instance = instance
        self._config = config
        self.secrets = MappingProxyType(dict(secrets))

    async def call(
        self, method: str, url: str, *, headers: Headers = (), body: bytes = b"", timeout_s: float = 5.0
    ) -> Called:
        """Return the answer to an HTTP request. Raises `NotGranted`, `CallFailed`."""
        if url.startswith("nexus://"):
            target, reached = self._service(url)
            return await self._caller.call(target, method, traced(headers), body, timeout_s, reached)
        return await self._caller.call(self._target(url), method, traced(headers), body, timeout_s)

    async def redis(self, url: str) -> Any:
        """Return a `redis.asyncio.Redis`, the same one for the same url. Raises `NotGranted`."""
        client = self._redis.get(url)
        if client is None:
            options = self._redis_options(url)
            try:
                from redis.asyncio import Redis
            except ImportError as error:
                raise CallFailed("redis is not installed beside Nexus. Install its extra `plugins`.") from error
            client = self._redis.get(url)
            if client is None:
                client = self._redis[url] = Redis(**options)
        return client

    async def consul(self, key: str) -> bytes | None:
        """Return a key's value, None when there is none. Raises `NotGranted`, `CallFailed`."""
        # What a client would tidy up on the way could lead out of the prefix.
        if any(part in ("", ".", "..") for part in key.split("/")[:-1]) or key.split("/")[-1] in (".", ".."):
            raise NotGranted(f"{key[:200]!r} is not a key: it has empty parts, '.' or '..'.")
        if not key.isprintable() or not any(key.startswith(prefix) for prefix in self.instance.granted.consul):
            raise self._refused(f"reads {key[:200]!r} from Consul", "consul", key)
        if self._means.consul is None:
            raise CallFailed("There is no Consul here. Set NEXUS_CONSUL_ADDRESS of the process that runs the plugin.")
        try:
            return await self._means.consul(key)
        except (OSError, TimeoutError) as error:
            raise CallFailed(f"Consul could not be asked for {key!r}: {str(error) or type(error).__name__}.") from error

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work in the background. Raises RuntimeError for one too many."""
        self._owned.spawn(work, name)

    async def close(self) -> int:
        """Cancel the plugin's tasks and close its connections; return how many tasks it had left behind."""
        leaked = await self._owned.close()
        clients, self._redis = list(self._redis.values()), {}
        for client in clients:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await client.aclose()
            except Exception as error:  # the client's own kinds, too; the plugin ends all the same
                self.log.warning("its connections to Redis did not close: %s", bounds.told(error))
        await self._caller.close()
        return leaked

    def _target(self, url: str) -> Target:
        try:
            target = parse_target(url)
        except ValueError as error:
            raise CallFailed(f"{_shown(url)} cannot be called: {error}.") from error
        if target.scheme not in ("http", "https"):
            raise CallFailed(f"{_shown(url)} cannot be called: it is neither http, https nor nexus.")
        if target.user is not None:
            raise CallFailed(
                f"A URL with a user in it is not called ({target.authority}). Send the header Authorization."
            )
        self._check_network(target, "calls")
        return target

    def _service(self, url: str) -> tuple[Target, Reached]:
        namespace, _, rest = url.removeprefix("nexus://").partition("/")
        name, slash, path = rest.partition("/")
        name, question, query = name.partition("?") if not slash else (name, "", "")
        service = f"{namespace}/{name}"
        granted = self.instance.granted.services
        # `*` is all of its own namespace: of another one the translation takes away what that does not permit, by name.
        if service not in granted and not ("*" in granted and namespace == self.plugin.partition("/")[0]):
            raise self._refused(f"calls the NexusService {service[:200]}", "services", service)
        found = self._means.endpoint(service) if self._means.endpoint is not None else None
        if found is None:
            raise CallFailed(f"The NexusService {service} has no live endpoint here.")
        scheme = "http" if found.tls is None else "https"
        return parse_target(f"{scheme}://{found.authority}/{path}{question}{query}"), found

    def _redis_options(self, url: str) -> dict[str, Any]:
        try:
            target = parse_target(url)
        except ValueError as error:
            raise CallFailed(f"{_shown(url)} cannot be used: {error}.") from error
        if target.scheme not in ("redis", "rediss"):
            raise CallFailed(f"{_shown(url)} is neither redis nor rediss.")
        self._check_network(target, "connects to")
        rest = urlsplit(target.rest)
        options: dict[str, Any] = {"host": target.host, "port": target.port, "ssl": target.scheme == "rediss"}
        for name, value in [*parse_qsl(rest.query), *([("db", rest.path[1:])] if len(rest.path) > 1 else [])]:
            if name not in _REDIS_OPTIONS:
                raise CallFailed(
                    f"{name!r} is not an option of a Redis URL. Known: {', '.join(sorted(_REDIS_OPTIONS))}."
                )
            try:
                options[name] = float(value) if name.startswith("socket") else int(value)
            except ValueError as error:
                raise CallFailed(f"{name} of a Redis URL is not a number.") from error
        if target.user is not None:
            user, _, password = target.user.partition(":")
            options |= {"username": unquote(user) or None, "password": unquote(password) or None}
        return options

    def _check_network(self, target: Target, does: str) -> None:
        # Hosts that the configuration names are the user's choice already.
        named = [each for each in self.instance.release.permissions.network if each.startswith("config:")]
        if not is_permitted(target, [*self.instance.granted.network, *named], self._config):
            raise self._refused(f"{does} {target.authority}", "network", target.host)

    def _refused(self, does: str, kind: str, what: str) -> NotGranted:
        return NotGranted(
            f"{self.plugin} {does}, which it was not granted. Its plugin.yaml has to ask for it (permissions.{kind}), and "
            f"spec.grants.{kind} of the NexusPlugin to grant it: {what[:200]!r}."
        )


def _shown(url: str) -> str:
    """Return a URL as a message may have it: without user, path and query, where secrets are."""
    scheme, separator, rest = url.partition("://")
    authority = rest.split("/", 1)[0].split("?", 1)[0].rpartition("@")[2]
    return repr(f"{scheme}{separator}{authority}"[:200])
