"""The Kubernetes API as the operator uses it: dictionaries in and out, own errors.

Sits on the generic part of the official client (`kubernetes.aio`): configuration, credentials that refresh, TLS, one
connection pool. The generated per-kind classes are not used: they drop fields they do not know, and custom kinds have none.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import client as api
from kubernetes.aio import config

from nexus_operator.world.inventory import Object, parse_version
from nexus_operator.world.kinds import CRD, FIELD_MANAGER, Kind
from nexus_operator.world.packed import keep

REQUEST_TIMEOUT_S = 15.0
PAGE = 500
"""Objects per list request, so that a list of a large kind does not time out."""
_MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"


class KubeError(Exception):
    """A request to the API server did not do what it should. `what` is a sentence for people."""

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.status = status


class KubeAway(KubeError):
    """The API server did not answer, or answered that it cannot now. Retry later."""


class NotFound(KubeError):
    """The object, or its whole kind, does not exist."""


class Conflict(KubeError):
    """Somebody else changed or created the object in between, or owns a field that was to be applied."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A full list. version: the resourceVersion it is true for. installed: False when the cluster does not know the kind."""

    objects: tuple[Object, ...]
    version: int
    installed: bool = True


class KubeApi:
    """One API server. Owns a connection pool: call `close()`. Every method raises KubeError and its subclasses only."""

    def __init__(self, configuration: Any, *, on_back: Callable[[], None] = lambda: None) -> None:
        """on_back: called when the server answers again after it did not for longer than a moment."""
        self._configuration = configuration
        self._client = api.ApiClient(configuration)
        self.on_back = on_back
        self._away_since: float | None = None

    @classmethod
    async def connect(cls, *, on_back: Callable[[], None] = lambda: None) -> KubeApi:
        """Return an API built from the pod's service account, else from KUBECONFIG or ~/.kube/config.

        Raises KubeError when neither is usable.
        """
        configuration = api.Configuration()
        in_pod = await asyncio.to_thread(Path(config.incluster_config.SERVICE_TOKEN_FILENAME).exists)
        try:
            if in_pod:
                config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError, ValueError) as err:
            raise KubeError(
                f"No access to a Kubernetes cluster: {err} Run in a pod with a service account, or set KUBECONFIG to a file."
            ) from err
        return cls(configuration, on_back=on_back)

    @classmethod
    def to(cls, server: str) -> KubeApi:
        """Return an API at a plain address, without credentials (tests, `kubectl proxy`)."""
        configuration = api.Configuration()
        configuration.host = server.rstrip("/")
        return cls(configuration)

    async def login(self) -> kopf.ConnectionInfo:
        """Return the same credentials for kopf, refreshed. Called again by kopf after a 401."""
        conf = self._configuration
        header = await conf.get_api_key_with_prefix("BearerToken") or ""
        scheme, _, token = header.rpartition(" ")
        return kopf.ConnectionInfo(
            server=conf.host,
            ca_path=conf.ssl_ca_cert,
            ca_data=conf.ca_cert_data,
            insecure=not conf.verify_ssl,
            scheme=scheme.capitalize() or None,
            token=token or None,
            certificate_path=conf.cert_file,
            private_key_path=conf.key_file,
        )

    async def list_all(self, kind: Kind, keep: Callable[[str, Object], Object | None] = keep) -> Listed:
        """Return every object of a kind, in all namespaces. A kind the cluster does not know is an empty list.

        keep: what is kept of each, by its kind; None for nothing.
        """
        objects: list[Object] = []
        version, proceed = "", ""
        while True:
            query = [("limit", str(PAGE))]
            if kind.selector:
                query.append(("labelSelector", kind.selector))
            if proceed:
                query.append(("continue", proceed))
            try:
                page = await self._call("GET", kind.path(), query=query)
            except NotFound:
                return Listed((), 0, installed=False)
            except KubeError as err:
                if err.status == 410 and proceed:  # the continue token has expired: start again
                    objects, proceed = [], ""
                    continue
                raise
            stamp = {"apiVersion": kind.api_version, "kind": kind.kind}  # items of a list do not carry them
            # What is not kept of a kind is not held for the length of the list either.
            kept = (keep(kind.kind, {**stamp, **item}) for item in page.get("items") or ())
            objects += [obj for obj in kept if obj is not None]
            meta = page.get("metadata") or {}
            version, proceed = str(meta.get("resourceVersion") or ""), str(meta.get("continue") or "")
            if not proceed:
                return Listed(tuple(objects), parse_version(version))

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return one object. Raises NotFound."""
        return await self._call("GET", kind.path(namespace, name))

    async def schema_of(self, kind: Kind) -> object:
        """Return the schema of a kind's version, OpenAPI v3, as its CustomResourceDefinition says; None when there is none.

        By a list of one, since that takes no leave besides that for watching the definitions.
        """
        name = f"{kind.plural}.{kind.group}"
        try:
            page = await self._call("GET", CRD.path(), query=[("fieldSelector", f"metadata.name={name}")])
        except NotFound:
            return None
        for item in page.get("items") or ():
            # The server is asked for one; a stand-in may give more.
            if (item.get("metadata") or {}).get("name") == name:
                versions = (item.get("spec") or {}).get("versions") or ()
                found: Mapping[str, Any] = next((v for v in versions if v.get("name") == kind.version), {})
                return (found.get("schema") or {}).get("openAPIV3Schema")
        return None

    async def served(self, group: str, version: str) -> frozenset[str]:
        """Return the plurals of the kinds that the server serves of a group's version; none for one that it does not know."""
        try:
            found = await self._call("GET", f"/apis/{group}/{version}")
        except NotFound:
            return frozenset()
        return frozenset(str(each.get("name")) for each in found.get("resources") or ())

    async def create(self, kind: Kind, namespace: str, body: Object) -> Object:
        """Create an object. Raises Conflict when there is one of that name."""
        return await self._call("POST", kind.path(namespace), body=body)

    async def replace(self, kind: Kind, namespace: str, name: str, body: Object) -> Object:
        """Replace an object. Raises Conflict when it is not at the body's resourceVersion any more."""
        return await self._call("PUT", kind.path(namespace, name), body=body)

    async def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, force: bool) -> Object:
        """Apply our fields of an object on the server's side; other managers' fields stay.

        force: take fields over from other managers. Raises Conflict otherwise, and when `metadata.uid` is not the live one's.
        """
        query = [("fieldManager", FIELD_MANAGER), ("force", "true" if force else "false")]
        return await self._call("PATCH", kind.path(namespace, name), query=query, body=body, content_type=_APPLY)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Delete the object if it still has this uid. Gone already is fine."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._call("DELETE", kind.path(namespace, name), body=body)
        except (NotFound, Conflict):
            return

    async def write_status(self, kind: Kind, obj: Object, status: Mapping[str, Any]) -> Object:
        """Merge `status` into the object's status. Raises Conflict when the object has changed since `obj` was read.

        A merge patch: keys set to None are removed, lists are replaced, keys not named stay.
        """
        meta = obj["metadata"]
        body = {"metadata": {"resourceVersion": meta["resourceVersion"], "uid": meta["uid"]}, "status": status}
        path = kind.path(str(meta.get("namespace") or ""), str(meta["name"]), "status")
        return await self._call("PATCH", path, query=[("fieldManager", FIELD_MANAGER)], body=body, content_type=_MERGE)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            request = await self._client.param_serialize(
                method, path, query_params=query or [], header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                response = await self._client.call_api(*request, _request_timeout=REQUEST_TIMEOUT_S)
                data: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError, api.ApiException) as err:
            if self._away_since is None:
                self._away_since = time.monotonic()
            raise KubeAway(
                f"{method} {path}: the Kubernetes API did not answer ({type(err).__name__}: {err})."
            ) from err
        status = int(response.status)
        if 200 <= status <= 299:
            self._answered()
            return dict(json.loads(data)) if data else {}
        what = f"{method} {path}: {_message(data) or response.reason} (HTTP {status})."
        if status == 404:
            self._answered()
            raise NotFound(what, status)
        if status == 409:
            self._answered()
            raise Conflict(what, status)
        if status == 429 or status >= 500:
            self._away_since = self._away_since or time.monotonic()
            raise KubeAway(what, status)
        raise KubeError(what, status)

    def _answered(self) -> None:
        if self._away_since is not None:
            self._away_since = None
            self.on_back()


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data).get("message") or "")
    except (ValueError, AttributeError):
        return data[:200].decode(errors="replace")
