"""`nexus plugin dev`: plugins from their sources, in a gateway that follows each save.

A marketplace of its own, signed by a key that lives as long as the command, is published anew whenever a file of a plugin changes; a
`nexus up` beside it follows. So a plugin runs here just as it will from a real marketplace: packed, signed, verified, judged, swapped.
What does not build, or does not load, leaves the version before running.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_cli.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from nexus_core.snapshot import Permissions, Release

LOOK_S = 0.15
"""How often files are looked at. A save is published after two looks that agree, and followed by `nexus up` within half a second."""
MARKETPLACE = "nexus-plugin-dev"
GROUP = "nexus.plugins"
_STOP_S = 20.0

Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Worked:
    """One plugin that is being worked on. good: the last release that could be built. fault: of the last try."""

    package: Path
    seen: Fingerprint = ()
    tried: Fingerprint = ()
    good: Release | None = None
    digest: str = ""
    builds: int = 0
    fault: str = ""


def find_packages(directory: Path | None) -> list[Path]:
    """Return the plugin packages to work on: below a directory, or of all installed plugins. Raises UserError when there is none."""
    from nexus_cli.plugins import markets

    if directory is not None:
        return [markets.package(directory)]
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        spec = importlib.util.find_spec(point.module.split(".")[0])
        places = (spec.submodule_search_locations or ()) if spec is not None else ()
        found += [Path(place).resolve() for place in places if (Path(place) / "plugin.yaml").is_file()]
    if not found:
        raise UserError(
            f"No installed distribution has a plugin (entry point group {GROUP}). Name a directory, or `pip install -e` a plugin."
        )
    return list(dict.fromkeys(found))


class Workbench:
    """Builds and publishes the plugins. folder: made by the caller, removed by it."""

    def __init__(
        self, packages: Sequence[Path], folder: Path, config: Mapping[str, Any], manifests: Path | None
    ) -> None:
        """config: of the plugins when there are no manifests. manifests: a directory or file; None for an echo upstream."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from nexus_marketplace.repository import Repository

        self.plugins = [Worked(package) for package in packages]
        self.market = folder / "market"
        self.site = folder / "site"
        self.site.mkdir(parents=True)
        self._key: Ed25519PrivateKey = Ed25519PrivateKey.generate()
        self._repository = Repository(self.market)
        self._config = config
        self._manifests = manifests
        self._manifests_seen: Fingerprint = ()
        self._manifests_tried: Fingerprint = ()
        self._round = 0
        self._port = 0

    def look(self) -> list[str]:
        """Build what has changed and publish it; return lines to print. `url` was called before."""
        said: list[str] = []
        built = []
        for each in self.plugins:
            seen = _fingerprint(each.package)
            settled, each.seen = seen == each.seen, seen
            if seen == each.tried or not (settled or not each.builds):
                continue
            each.tried = seen
            artefact = self._build(each, said)
            if artefact is not None:
                built.append(artefact)
        changed = self._manifests_changed()
        if built:
            from nexus_marketplace import publishing
            from nexus_marketplace.repository import Keys

            publishing.add_releases(self._repository, built, Keys.one(self._key), datetime.now(UTC))
            self._round += 1
            said += [
                f"{artefact.release.name} {artefact.release.version}: built, the gateway follows" for artefact in built
            ]
        if (built or changed) and all(each.good is not None for each in self.plugins):
            self._write_site(said)
        return said

    def url(self, port: int) -> None:
        """Say where the marketplace is served."""
        self._port = port

    def _build(self, each: Worked, said: list[str]) -> Any:
        import msgspec
        from nexus_marketplace import publishing
        from nexus_marketplace.refusing import PublishRefused
        from packaging.version import Version

        try:
            artefact = publishing.build_unsigned(each.package, "dev")
        except (PublishRefused, OSError, ValueError) as error:
            each.fault = str(error)
            goes_on = f"{each.good.version} goes on" if each.good is not None else "nothing of it runs yet"
            said.append(f"{each.package.name}: {error}\n  ({goes_on})")
            each.builds += 1
            return None
        each.fault = ""
        each.builds += 1
        if artefact.release.sha256 == each.digest:
            return None
        each.digest = artefact.release.sha256
        # Each build is a version: what is published stays what it was.
        major, minor, patch = Version(artefact.release.version).release
        release = msgspec.structs.replace(artefact.release, version=f"{major}.{minor}.{patch + each.builds}")
        each.good = release
        return publishing.sign(publishing.Artefact(release, artefact.data), self._key)

    # ---- manifests

    def _manifests_changed(self) -> bool:
        if self._manifests is None:
            return False
        seen = _fingerprint(self._manifests)
        settled, self._manifests_seen = seen == self._manifests_seen, seen
        if seen == self._manifests_tried or not settled:
            return False
        self._manifests_tried = seen
        return True

    def _write_site(self, said: list[str]) -> None:
        import yaml
        from nexus_marketplace import durable
        from nexus_marketplace.publishing import public_key

        documents = self._given() if self._manifests is not None else _echo_service()
        # Another address each time: it is read at once instead of when the last reading is too old.
        where = f"http://127.0.0.1:{self._port}/{self._round}/index.json"
        trusted = {"name": "dev", "publicKey": public_key(self._key)}
        market = {"source": {"url": where}, "publishers": [trusted]}
        made = [_object("NexusMarketplace", MARKETPLACE, None, market)]
        for each in self.plugins:
            assert each.good is not None
            own = {
                "marketplace": MARKETPLACE,
                "plugin": each.good.name,
                "version": f"=={each.good.version}",
                "canary": {"seconds": 0},
                "updatePolicy": {"mode": "any"},
            }
            there = [d for d in documents if _is_plugin(d, each.good.name)]
            for document in there:
                document["spec"] = {**document.get("spec", {}), **own}
            if not there:
                namespace = next(
                    (d["metadata"].get("namespace") for d in documents if d.get("kind") == "NexusService"), None
                )
                spec = {**own, "config": dict(self._config), "grants": _grants(each.good.permissions)}
                made.append(_object("NexusPlugin", each.good.name, namespace, spec))
                if each.good.permissions.secrets:
                    said.append(f"{each.good.name} asks for secrets: give a NexusPlugin with grants.secrets in -f")
        text = yaml.safe_dump_all([*documents, *made], sort_keys=False)
        durable.write(self.site / "dev.yaml", text.encode())

    def _given(self) -> list[dict[str, Any]]:
        """Return the manifests as they are, with processes where they would run."""
        import yaml

        from nexus_cli import manifests

        assert self._manifests is not None
        found: list[dict[str, Any]] = []
        for path in manifests.find_files([self._manifests]):
            try:
                documents = [each for each in yaml.safe_load_all(path.read_text()) if each]
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{path} is not YAML: {error}. Correct it.") from error
            for document in documents:
                if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
                    raise UserError(f"{path} holds something that is no manifest. `nexus validate {path}` says more.")
                process = (
                    (document.get("spec") or {}).get("process") if document.get("kind") == "NexusService" else None
                )
                if isinstance(process, dict):
                    process["directory"] = str((path.parent / process.get("directory", ".")).resolve())
                found.append(document)
        return found


@dataclass(slots=True)
class _Server:
    """The marketplace's files on 127.0.0.1, in a thread: `/<anything>/<path>`."""

    root: Path
    port: int = 0
    _loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

    @contextmanager
    def running(self) -> Iterator[int]:
        ready, trouble = threading.Event(), []
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        def run() -> None:
            try:
                loop.run_until_complete(self._serve(ready, stop))
            except OSError as error:
                trouble.append(error)
                ready.set()

        thread = threading.Thread(target=run, name="marketplace", daemon=True)
        thread.start()
        ready.wait()
        if trouble:
            raise UserError(f"The marketplace cannot be served on 127.0.0.1: {trouble[0]}.")
        try:
            yield self.port
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        from aiohttp import web
        from nexus_marketplace import serving

        app = web.Application()
        # One directory under many addresses: `nexus up` reads a marketplace anew when its address changes.
        app.router.add_get("/{round:[0-9]+}/{path:.+}", serving.file_handler(self.root))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()


def run(packages: Sequence[Path], manifests: Path | None, config: Mapping[str, Any], listen: str, admin: str) -> int:
    """Work until SIGINT or SIGTERM; return the exit code of `nexus up`. Raises UserError when nothing can be started."""
    folder = Path(tempfile.mkdtemp(prefix="nexus-plugin-dev-"))
    stop = threading.Event()
    former = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        bench = Workbench(packages, folder, config, manifests)
        with _Server(bench.market).running() as port:
            bench.url(port)
            _say(bench.look())
            while not (bench.site / "dev.yaml").exists() and not stop.wait(LOOK_S):
                _say(bench.look())  # until there is something that builds
            if stop.is_set():
                return 0
            return _work(bench, stop, listen, admin)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)


def _work(bench: Workbench, stop: threading.Event, listen: str, admin: str) -> int:
    command = [sys.executable, "-m", "nexus_cli", "up", str(bench.site), "--listen", listen, "--admin", admin]
    # In a session of its own: Ctrl-C is ours, and it is told to stop once, in order.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while process.poll() is None and not stop.wait(LOOK_S):
            try:
                _say(bench.look())
            except (UserError, OSError) as error:
                click.echo(f"nexus: {error}", err=True)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return 0 if stop.is_set() else process.returncode


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"dev: {line}", err=True)


def _fingerprint(path: Path) -> Fingerprint:
    """Return (path, mtime_ns, size) of the files that matter below a path, or of itself; what vanishes meanwhile is not there."""
    rows = []
    for each in sorted(path.rglob("*") if path.is_dir() else (path,)):
        if each.suffix not in (".py", ".yaml", ".yml", ".md") or "__pycache__" in each.parts:
            continue
        try:
            status = each.stat()
        except FileNotFoundError:
            continue
        rows.append((str(each), status.st_mtime_ns, status.st_size))
    return tuple(rows)


def _echo_service() -> list[dict[str, Any]]:
    process = {"command": [sys.executable, "-m", "nexus_cli.plugins.echo"]}
    spec = {"type": "http", "process": process, "health": {"path": "/"}, "expose": {"path": "/"}}
    return [_object("NexusService", "echo", None, spec)]


def _object(kind: str, name: str, namespace: str | None, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "nexus.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _is_plugin(document: Mapping[str, Any], name: str) -> bool:
    if document.get("kind") != "NexusPlugin":
        return False
    named = (document.get("spec") or {}).get("plugin") or document["metadata"].get("name")
    return bool(named == name)


def _grants(asked: Permissions) -> dict[str, Any]:
    """Return grants of all that a release asks for but secrets: whoever develops it has read it."""
    return {
        "network": [each for each in asked.network if not each.startswith("config:")],
        "services": list(asked.services),
        "headers": {"read": list(asked.read_headers), "write": list(asked.write_headers)},
        "consul": list(asked.consul),
        "modules": list(asked.modules),
        "nativeCode": asked.native,
    }
