"""What tests of first-party plugins share: a kit whose plugin is configured as a gateway would do it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from nexus_core.hooks import Plugin
from nexus_sdk.testing import FakeContext, PluginKit

Make = Callable[..., PluginKit]


def package_of(kind: type[Plugin]) -> Path:
    """Return the directory of the package that a plugin's class is in."""
    package = sys.modules[kind.__module__.partition(".")[0]]
    assert package.__file__ is not None
    return Path(package.__file__).parent


def manifest_of(kind: type[Plugin]) -> dict[str, Any]:
    """Return the `plugin.yaml` of the package that a plugin's class is in."""
    manifest: dict[str, Any] = yaml.safe_load((package_of(kind) / "plugin.yaml").read_text())
    return manifest


def with_defaults(schema: Mapping[str, Any], value: Any) -> Any:
    """Return a configuration with the defaults of its schema filled in, at every depth."""
    if isinstance(value, Mapping):
        filled = dict(value)
        for name, inner in schema.get("properties", {}).items():
            if name not in filled and "default" in inner:
                filled[name] = inner["default"]
            if name in filled:
                filled[name] = with_defaults(inner, filled[name])
        return filled
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], each) for each in value]
    return value


@pytest.fixture
def make() -> Make:
    """Return a function that makes a kit for a plugin, with what its plugin.yaml says."""

    def kit(
        kind: type[Plugin], config: Mapping[str, Any] | None = None, context: FakeContext | None = None
    ) -> PluginKit:
        return PluginKit(kind, config, context=context, timeout_s=20, package=package_of(kind))

    return kit


@pytest.fixture
def refused() -> Callable[[type[Plugin], Mapping[str, Any]], str]:
    """Return a function that says why a schema refuses a configuration; empty when it does not."""

    def why(kind: type[Plugin], config: Mapping[str, Any]) -> str:
        schema = manifest_of(kind)["configSchema"]
        error = next(
            iter(jsonschema.Draft202012Validator(schema).iter_errors(with_defaults(schema, dict(config)))), None
        )
        return "" if error is None else f"{error.json_path}: {error.message}"

    return why


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis of the tests' own, without persistence; skips where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            else:
                pytest.fail("redis-server does not listen after four seconds")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


@pytest.fixture
def no_redis_url() -> str:
    """The address of a Redis that is down."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{probe.getsockname()[1]}/0"


@pytest.fixture
def silent_redis_url() -> Iterator[str]:
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
