"""Where NexusPlugins are kept: `FilesHome` and `ClusterHome`, with the same operations."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from nexus_core.model.plugins import NexusMarketplaceSpec, NexusPluginSpec

from nexus_cli import manifests
from nexus_cli.errors import UserError
from nexus_cli.plugins import edits


@dataclass(frozen=True, slots=True)
class Installed:
    """One NexusPlugin. spec: None when it is broken. where: its file, or `cluster`. state, why: of its conditions, if known.

    raw: the manifest.
    """

    namespace: str
    name: str
    spec: NexusPluginSpec | None
    where: str
    state: str = ""
    version: str = ""
    why: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.namespace}/{self.name}"


class Home(Protocol):
    """Raises UserError when it cannot be reached."""

    def list(self) -> tuple[Installed, ...]: ...

    def set_enabled(self, plugin: Installed, enabled: bool) -> str:
        """Return what was changed, for people."""
        ...

    def set_version(self, plugin: Installed, versions: str) -> str:
        """Return what was changed, for people. versions: PEP 440 range."""
        ...

    def marketplace(self, name: str) -> NexusMarketplaceSpec | None:
        """Return what a NexusMarketplace says; None when there is none that can be read here."""
        ...

    def install(self, manifest: Mapping[str, Any]) -> str:
        """Return where it is now, for people."""
        ...

    def uninstall(self, plugin: Installed) -> str:
        """Return where it was, for people."""
        ...


class FilesHome:
    """Manifests in a directory (or one file). A running `nexus up` or `nexus gateway -f` follows by itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self) -> tuple[Installed, ...]:
        loaded = manifests.load([self._path])
        found = [
            Installed(
                resource.ref.namespace,
                resource.ref.name,
                resource.spec if isinstance(resource.spec, NexusPluginSpec) else None,
                str(path),
                why="; ".join(f"{p.what} {p.fix} ({p.path})" for p in resource.problems),
                raw=resource.raw,
            )
            for resource, path in loaded.resources
            if resource.ref.kind == "NexusPlugin"
        ]
        return tuple(sorted(found, key=lambda plugin: plugin.id))

    def set_enabled(self, plugin: Installed, enabled: bool) -> str:
        return self._set(plugin, "enabled", "true" if enabled else "false")

    def set_version(self, plugin: Installed, versions: str) -> str:
        return self._set(plugin, "version", f'"{versions}"')

    def _set(self, plugin: Installed, field: str, value: str) -> str:
        def change(text: str) -> str:
            return edits.set_field(text, field, value, kind="NexusPlugin", namespace=plugin.namespace, name=plugin.name)

        return str(self._edit(Path(plugin.where), change))

    def uninstall(self, plugin: Installed) -> str:
        def change(text: str) -> str:
            return edits.remove(text, kind="NexusPlugin", namespace=plugin.namespace, name=plugin.name)

        path = self._edit(Path(plugin.where), change)
        return str(path)

    def _edit(self, path: Path, change: Callable[[str], str]) -> Path:
        """Change a file's text; one that nothing is left of goes. Return it."""
        try:
            text = path.read_text(encoding="utf-8")
            changed = change(text)
            if not changed:
                path.unlink()
        except edits.EditRefused as error:
            raise UserError(f"{path}: {error}") from error
        except OSError as error:
            raise UserError(f"{path} cannot be changed: {error.strerror}. Check its permissions.") from error
        if changed and changed != text:
            replace_file(path, changed)
        return path

    def marketplace(self, name: str) -> NexusMarketplaceSpec | None:
        for resource, _ in manifests.load([self._path]).resources:
            if resource.ref.name == name and isinstance(resource.spec, NexusMarketplaceSpec):
                return resource.spec
        return None

    def install(self, manifest: Mapping[str, Any]) -> str:
        name = manifest["metadata"]["name"]
        directory = self._path if self._path.is_dir() else self._path.parent
        path = directory / f"plugin-{name}.yaml"
        if path.exists():
            raise UserError(f"{path} exists. Remove it, or install under another name with --name.")
        replace_file(path, yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True))
        return str(path)


def replace_file(path: Path, text: str) -> None:
    """Write a file in one step, keeping its mode: whoever reads it sees the old or the new, never half of one."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        # The name begins with a dot and has another suffix: nobody takes it for a manifest.
        descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(fresh).chmod(mode)
            Path(fresh).replace(path)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Check its permissions.") from error


GROUP, VERSION, PLURAL = "nexus.dev", "v1alpha1", "nexusplugins"
CALL_S = 10.0


class ClusterHome:
    """The NexusPlugins of a cluster, reached as kubectl does."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        # Imported here: it takes longer than everything else of this command.
        from kubernetes import client, config
        from kubernetes.config.config_exception import ConfigException

        try:
            api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context
            )
        except (ConfigException, OSError, yaml.YAMLError) as error:
            raise UserError(
                f"No cluster to talk to ({error}). Name manifests with -f DIR, or a cluster with --kubeconfig and --context."
            ) from error
        api.configuration.retries = 0
        self._api = client.CustomObjectsApi(api)

    def _call(self, method: str, **arguments: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return getattr(self._api, method)(
                group=GROUP, version=VERSION, plural=PLURAL, _request_timeout=CALL_S, **arguments
            )
        except ApiException as error:
            raise UserError(f"The cluster refused it ({error.status} {error.reason}): {_said(error.body)}") from error
        except HTTPError as error:
            raise UserError(f"The cluster cannot be reached: {error}. Check --kubeconfig and --context.") from error

    def list(self) -> tuple[Installed, ...]:
        from nexus_core.model.load import parse

        items = self._call("list_cluster_custom_object")["items"]
        found = []
        for item in items:
            resource = parse(item)
            status = item.get("status") or {}
            ready: Mapping[str, Any] = next((c for c in status.get("conditions", ()) if c.get("type") == "Ready"), {})
            state = {"True": "ready", "False": str(ready.get("reason", "not ready"))}.get(str(ready.get("status")), "")
            found.append(
                Installed(
                    resource.ref.namespace,
                    resource.ref.name,
                    resource.spec if isinstance(resource.spec, NexusPluginSpec) else None,
                    "cluster",
                    state,
                    str(status.get("version", "")),
                    str(ready.get("message", "")) if state != "ready" else "",
                    item,
                )
            )
        return tuple(sorted(found, key=lambda plugin: plugin.id))

    def set_enabled(self, plugin: Installed, enabled: bool) -> str:
        return self._patch(plugin, {"enabled": enabled})

    def set_version(self, plugin: Installed, versions: str) -> str:
        return self._patch(plugin, {"version": versions})

    def _patch(self, plugin: Installed, spec: Mapping[str, Any]) -> str:
        self._call(
            "patch_namespaced_custom_object",
            namespace=plugin.namespace,
            name=plugin.name,
            body={"spec": dict(spec)},
            field_manager="nexus-cli",
        )
        return "the cluster"

    def uninstall(self, plugin: Installed) -> str:
        self._call("delete_namespaced_custom_object", namespace=plugin.namespace, name=plugin.name)
        return f"namespace {plugin.namespace} of the cluster"

    def marketplace(self, name: str) -> NexusMarketplaceSpec | None:
        from kubernetes.client.exceptions import ApiException
        from nexus_core.model.load import parse
        from urllib3.exceptions import HTTPError

        item: Any
        try:
            item = self._api.get_cluster_custom_object(
                group=GROUP, version=VERSION, plural="nexusmarketplaces", name=name, _request_timeout=CALL_S
            )
        except (ApiException, HTTPError):
            return None  # not there, or not for this user to read: the operator will say what is wrong
        spec = parse(item).spec
        return spec if isinstance(spec, NexusMarketplaceSpec) else None

    def install(self, manifest: Mapping[str, Any]) -> str:
        namespace = manifest["metadata"]["namespace"]
        self._call(
            "create_namespaced_custom_object", namespace=namespace, body=dict(manifest), field_manager="nexus-cli"
        )
        return f"namespace {namespace} of the cluster"


def _said(body: object) -> str:
    import json

    try:
        return str(json.loads(str(body))["message"])
    except (ValueError, KeyError, TypeError):
        return str(body)[:300]
