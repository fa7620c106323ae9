"""Volumes of a pod as directories on this machine: Secret, ConfigMap, projected, downwardAPI, emptyDir, hostPath.

`Volumes.prepare()` fills them once before the first container starts and raises as long as something is missing.
`Volumes.keep_fresh()` renews service-account tokens; Secrets and ConfigMaps are not updated after the start.
Absent on purpose: persistent volume claims and CSI (there is no provisioner).
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_testbed.api import Api, ApiError, ApiUnavailable, Object
from nexus_testbed.kubelet import environment

TOKEN_RENEW_RATIO = 0.8
"""Share of a token's life after which it is renewed, as the real kubelet does."""
TOKEN_RETRY_S = 5.0
READ_ONLY_KINDS = frozenset({"secret", "configMap", "projected", "downwardAPI"})


class VolumeError(Exception):
    """A volume cannot be set up (yet); the text goes to the pod's events."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A service-account token file and when to renew it."""

    path: Path
    source: Object
    mode: int
    renew_at_utc: datetime.datetime


def _find_host_path(name: str, spec: Object) -> Path:
    path = Path(spec["path"])
    if spec.get("type") == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        raise VolumeError(f'volume "{name}": hostPath {path} does not exist')
    return path


class Volumes:
    """The volumes of one pod below `root` (one directory each, named after the volume)."""

    def __init__(self, api: Api, pod: Object, root: Path, pod_ip: str) -> None:
        self._api, self._pod, self._root, self._pod_ip = api, pod, root, pod_ip
        self._namespace = pod["metadata"]["namespace"]
        self._fs_group: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        self._tokens: list[_Token] = []
        self._paths: dict[str, Path] = {}
        self._read_only: set[str] = set()

    async def prepare(self) -> None:
        """Create and fill all volumes. Raises VolumeError, ApiError or ApiUnavailable; may be called again then."""
        self._tokens.clear()
        for volume in self._pod["spec"].get("volumes") or ():
            name = volume["name"]
            kind = next((key for key in volume if key != "name"), "emptyDir")
            self._paths[name] = await self._prepare_one(name, kind, volume.get(kind) or {})
            if kind in READ_ONLY_KINDS:
                self._read_only.add(name)

    async def _prepare_one(self, name: str, kind: str, spec: Object) -> Path:
        if kind == "hostPath":
            return _find_host_path(name, spec)
        directory = self._root / name
        directory.mkdir(parents=True, exist_ok=True)
        if kind == "emptyDir":
            directory.chmod(0o777)
        elif kind in READ_ONLY_KINDS:
            mode = spec.get("defaultMode", 0o644)
            sources: Sequence[Object] = spec.get("sources") or () if kind == "projected" else [{kind: spec}]
            for source in sources:
                await self._fill(directory, source, mode)
        else:
            raise VolumeError(f'volume "{name}": this kubelet has no {kind} volumes; use emptyDir or hostPath')
        if self._fs_group is not None:
            os.chown(directory, -1, self._fs_group)
        return directory

    def _write(self, directory: Path, relative: str, data: bytes, mode: int) -> None:
        path = directory / relative
        if ".." in Path(relative).parts:
            raise VolumeError(f"path {relative!r} leads out of the volume")
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.tmp")
        scratch.write_bytes(data)
        if self._fs_group is not None:
            os.chown(scratch, -1, self._fs_group)
            mode |= 0o040
        scratch.chmod(mode)
        os.replace(scratch, path)  # readers see the old content or the new, never half of it

    async def _fill(self, directory: Path, source: Object, mode: int) -> None:
        kind = next(iter(source))
        spec: Object = source[kind] or {}
        if kind in ("secret", "configMap"):
            await self._fill_keys(directory, kind, spec, mode)
        elif kind == "downwardAPI":
            for item in spec.get("items") or ():
                if "fieldRef" in item:
                    text = environment.read_field(self._pod, item["fieldRef"]["fieldPath"], self._pod_ip)
                else:
                    reference = item["resourceFieldRef"]
                    container = next(
                        c for c in self._pod["spec"]["containers"] if c["name"] == reference["containerName"]
                    )
                    text = environment.read_resource(container, reference)
                self._write(directory, item["path"], text.encode(), item.get("mode", mode))
        elif kind == "serviceAccountToken":
            self._tokens.append(await self._request_token(directory / spec["path"], spec, mode))
        else:
            raise VolumeError(f"this kubelet cannot project {kind}")

    async def _fill_keys(self, directory: Path, kind: str, spec: Object, mode: int) -> None:
        name = spec.get("secretName") or spec.get("name")
        plural = "secrets" if kind == "secret" else "configmaps"
        try:
            found = await self._api.request("GET", f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")
        except ApiError as err:
            if err.status == 404 and spec.get("optional"):
                return
            # 403: the node authorizer has not seen yet that this pod refers to it; as good as "not yet"
            raise VolumeError(f'{kind.lower()} "{name}" not found' if err.status == 404 else str(err)) from err
        data = {key: base64.b64decode(v) for key, v in (found.get("binaryData") or {}).items()}
        for key, value in (found.get("data") or {}).items():
            data[key] = base64.b64decode(value) if kind == "secret" else value.encode()
        items = spec.get("items")
        for item in items if items is not None else [{"key": key, "path": key} for key in data]:
            if item["key"] in data:
                self._write(directory, item["path"], data[item["key"]], item.get("mode", mode))
            elif not spec.get("optional"):
                raise VolumeError(f'{kind.lower()} "{name}" has no key {item["key"]!r}')

    async def _request_token(self, path: Path, spec: Object, mode: int) -> _Token:
        meta = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName", "default")
        seconds = spec.get("expirationSeconds", 3600)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [spec["audience"]] if spec.get("audience") else [],
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        answer = await self._api.request(
            "POST", f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token", request
        )
        self._write(path.parent, path.name, answer["status"]["token"].encode(), mode)
        now = datetime.datetime.now(datetime.UTC)
        expires = datetime.datetime.fromisoformat(answer["status"]["expirationTimestamp"])
        return _Token(path, spec, mode, now + (expires - now) * TOKEN_RENEW_RATIO)

    async def keep_fresh(self) -> None:
        """Renew tokens before they expire, until cancelled; an API server that is away is tried again."""
        while self._tokens:
            oldest = min(self._tokens, key=lambda token: token.renew_at_utc)
            delay = oldest.renew_at_utc - datetime.datetime.now(datetime.UTC)
            await asyncio.sleep(max(delay.total_seconds(), 0.0))
            try:
                renewed = await self._request_token(oldest.path, oldest.source, oldest.mode)
            except (ApiError, ApiUnavailable) as err:
                print(f"token {oldest.path}: not renewed, trying again in {TOKEN_RETRY_S:.0f} s: {err}", flush=True)
                await asyncio.sleep(TOKEN_RETRY_S)
            else:
                self._tokens[self._tokens.index(oldest)] = renewed

    def mounts_of(self, container: Object) -> list[tuple[Path, str, bool]]:
        """Return (source, target in the container, read-only) for each of the container's mounts, parents first."""
        mounts = []
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in self._paths:
                raise environment.ConfigError(f'volumeMount "{mount["name"]}" names no volume of the pod')
            source = self._paths[mount["name"]]
            if sub_path := mount.get("subPath"):
                if ".." in Path(sub_path).parts:
                    raise environment.ConfigError(f"subPath {sub_path!r} leads out of the volume")
                source = source / sub_path
                if not source.exists():
                    source.mkdir(parents=True)
            read_only = bool(mount.get("readOnly")) or mount["name"] in self._read_only
            mounts.append((source, mount["mountPath"], read_only))
        return sorted(mounts, key=lambda entry: entry[1].count("/"))
