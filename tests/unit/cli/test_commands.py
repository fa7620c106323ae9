"""The command table: quick to start, complete, documented, and kind to mistakes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import click
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_cli import reference
from nexus_cli.app import COMMANDS, cli
from nexus_cli.plugins.configs import cache_beside
from nexus_core.model.load import parse_text
from nexus_gateway.edge.sources.indexes import Indexes
from nexus_marketplace.publishing import public_key
from nexus_marketplace.repository import Keys, Repository

REPOSITORY = Path(__file__).parent.parent.parent.parent


def commands() -> Iterator[tuple[str, click.Command]]:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for below, inner in command.commands.items():
                yield f"{name} {below}", inner


@pytest.mark.parametrize(("name", "command"), [pytest.param(n, c, id=n) for n, c in commands()])
def test_each_command_has_examples_and_takes_o(name: str, command: click.Command) -> None:
    assert command.help
    assert "Example" in command.help
    assert f"nexus {name.split()[0]}" in command.help
    assert any("-o" in parameter.opts for parameter in command.params)
    undescribed = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert undescribed == []


def test_the_reference_page_is_as_the_commands_say() -> None:
    page = (REPOSITORY / "docs" / "reference" / "cli.md").read_text()
    assert page == reference.render(), "run: make generate"


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a run of the command line imports."""
    program = (
        "import sys, json\nfrom nexus_cli.app import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("--help",), ("up", "--help"), ("events", "--help"), ("version",)])
def test_help_and_version_import_no_role(arguments: tuple[str, ...]) -> None:
    """What keeps `nexus --help` quick."""
    heavy = {
        "aiohttp",
        "rich",
        "pydantic",
        "kubernetes",
        "kopf",
        "opentelemetry",
        "nexus_gateway",
        "nexus_events",
        "yaml",
    }
    assert loaded_by(*arguments) & heavy == set()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nexus_cli", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("up",), 2, "DIR"),
        (("upp",), 2, "Did you mean 'up'?"),
        (("validate", "nowhere"), 2, "nowhere does not exist"),
        (("explain", "PathConflikt"), 1, "Did you mean PathConflict"),
        (("explain", "FETCH", "/x"), 2, "'FETCH' is not a method"),
        (("explain", "GET", "http://[::bad/", "-f", "examples/shop"), 2, "not a valid host name"),
        (("explain", "GET", "/a%zz", "-f", "examples/shop"), 2, "percent-escape"),
        (("explain", "GET", "/../..", "-f", "examples/shop"), 2, "climbs above the root"),
        (("traces", "xyz"), 2, "not a trace id"),
        (("traces", "--admin", "http://127.0.0.1:9"), 2, "No gateway answers at http://127.0.0.1:9"),
        (("traces", "--admin", "nonsense"), 2, "is not a URL"),
        (("gateway",), 2, "NEXUS_CONSUL_URL"),
        (("plugin", "list", "-f", "nowhere"), 2, "nowhere does not exist"),
        (("plugin", "list", "--kubeconfig", "/nowhere"), 2, "No cluster to talk to"),
        (("plugin", "install", "x", "-f", "examples/shop"), 1, "aggregate, api-key"),
        (("plugin", "enable", "x", "-f", "examples/shop"), 1, "Installed: shop/api-key, shop/request-id"),
        (("plugin", "install", "api-key", "-f", "examples/shop", "--config", "{"), 2, "--config is not JSON"),
        (("marketplace", "verify", "x.json", "--key", "k"), 2, "neither a base64 Ed25519 public key"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nexus_cli", *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_says_where_and_how_to_mend(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: a}\nspec: {typ: http, process: {command: [x]}}\n"
    )
    done = run("validate", str(tmp_path), "-o", "json")
    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 1
    assert (problem["file"], problem["path"]) == (str(tmp_path / "a.yaml"), ".spec.typ")
    assert problem["fix"]
    assert problem["page"]


def test_validate_says_nothing_of_what_only_a_remote_index_could_tell(tmp_path: Path) -> None:
    key = (REPOSITORY / "plugins" / "index" / "nexus_plugins" / "publisher.pub").read_text().strip()
    (tmp_path / "a.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusMarketplace\nmetadata: {name: partners}\n"
        f"spec: {{source: {{url: 'https://plugins.invalid/index.json'}}, publishers: [{{name: p, publicKey: '{key}'}}]}}\n---\n"
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusPlugin\nmetadata: {name: demo}\nspec: {marketplace: partners}\n"
    )
    done = run("validate", str(tmp_path), "-o", "json")
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (0, [])
    assert "Not run: hooks on manifests" in done.stderr
    assert "default/demo (if it has any)" in done.stderr


OFFICIAL = """apiVersion: nexus.dev/v1alpha1
kind: NexusMarketplace
metadata: {name: official}
spec: {source: {bundled: true}, publishers: [{name: nexus, publicKey: KEY}]}
---
apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: web, namespace: shop}
spec: {backend: {addresses: ["10.0.0.1:80"]}, expose: {path: /}}
"""


def official(folder: Path) -> None:
    key = (REPOSITORY / "plugins" / "index" / "nexus_plugins" / "publisher.pub").read_text().strip()
    (folder / "market.yaml").write_text(OFFICIAL.replace("KEY", key))


def test_validate_holds_configurations_against_schemas(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "plugin.yaml").write_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusPlugin\nmetadata: {name: request-id, namespace: shop}\n"
        "spec: {config: {header: 5}}\n"
    )
    done = run("validate", str(tmp_path), "-o", "json")
    (problem,) = json.loads(done.stdout)["problems"]
    assert (done.returncode, problem["object"], problem["reason"]) == (
        1,
        "NexusPlugin shop/request-id",
        "PluginConfigInvalid",
    )
    assert (problem["path"], problem["what"]) == (".spec.config.header", "5 is not of type 'string'.")


def test_install_takes_no_configuration_that_the_release_refuses(tmp_path: Path) -> None:
    official(tmp_path)
    done = run("plugin", "install", "request-id", "-n", "shop", "-f", str(tmp_path), "--config", '{"header": 5}')
    assert done.returncode == 2
    assert ".spec.config.header: 5 is not of type 'string'." in done.stderr
    assert not (tmp_path / "plugin-request-id.yaml").exists()
    done = run("plugin", "install", "request-id", "-n", "shop", "-f", str(tmp_path), "--config", '{"header": "x-id"}')
    assert (done.returncode, (tmp_path / "plugin-request-id.yaml").exists()) == (0, True), done.stderr


def test_an_index_that_was_read_before_is_at_hand(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    release = {
        "name": "demo", "version": "1.0", "api": ">=1,<2", "package": "demo", "entry_point": "demo:P", "sha256": "0" * 64,
        "url": "x.zip", "publisher": "p", "signature": "c2ln", "config_schema": {"properties": {"n": {"type": "integer"}}},
    }  # fmt: skip
    market = tmp_path / "market"
    data = json.dumps({"version": 1, "releases": [release]}).encode()
    Repository(market).publish(data, {}, Keys.one(private), datetime.now(UTC))
    text = (
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusMarketplace\nmetadata: {name: partners}\n"
        f"spec: {{source: {{directory: {market}}}, publishers: [{{name: p, publicKey: '{public_key(private)}'}}]}}\n"
    )
    plugin = (
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusPlugin\nmetadata: {name: demo}\n"
        "spec: {marketplace: partners, config: {n: x}}\n"
    )
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "a.yaml").write_text(f"{text}---\n{plugin}")
    assert json.loads(run("validate", str(manifests), "-o", "json").stdout)["problems"] == []
    (resource,), _ = parse_text(text, "a.yaml")
    _, problems = asyncio.run(Indexes(cache_beside(manifests)).read([resource]))  # as `nexus up` does
    assert problems == ()
    (problem,) = json.loads(run("validate", str(manifests), "-o", "json").stdout)["problems"]
    assert (problem["path"], problem["what"]) == (".spec.config.n", "'x' is not of type 'integer'.")
    described = run("plugin", "describe", "demo", "-f", str(manifests), "-o", "json")
    assert json.loads(described.stdout)["configSchema"] == release["config_schema"], "as the problem's remedy says"


def test_a_plugin_of_another_marketplace_takes_no_range_from_a_namesake_that_ships_with_nexus(tmp_path: Path) -> None:
    official(tmp_path)
    done = run("plugin", "install", "compression", "--marketplace", "partners", "-f", str(tmp_path), "-o", "json")
    assert json.loads(done.stdout)["manifest"]["spec"]["version"] == "", "any, and not the range of the one here"


def test_the_example_is_valid() -> None:
    done = run("validate", str(REPOSITORY / "examples" / "shop"))
    assert done.returncode == 0, done.stderr


def test_explain_answers_from_files() -> None:
    done = run("explain", "GET", "/orders/7", "-f", str(REPOSITORY / "examples" / "shop"), "-o", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["route"]) == (0, "NexusService/shop/orders")
    assert found["plugins"][0]["id"] == "shop/request-id"


def test_output_may_stand_before_or_after_the_command() -> None:
    assert json.loads(run("-o", "json", "version").stdout) == json.loads(run("version", "-o", "json").stdout)


def test_the_example_pins_the_key_of_the_bundled_plugins() -> None:
    key = (REPOSITORY / "plugins" / "index" / "nexus_plugins" / "publisher.pub").read_text().strip()
    assert key in (REPOSITORY / "examples" / "shop" / "marketplace.yaml").read_text()


def test_the_table_of_problems_names_the_file_and_the_reason_that_explain_takes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: [\n")
    (tmp_path / "b.yaml").write_text("apiVersion: nexus.dev/v1alpha1\nkind: NexusServce\nmetadata: {name: a}\n")
    head, first, second, *_ = run("validate", str(tmp_path)).stdout.splitlines()
    assert head.split() == ["FILE", "OBJECT", "PATH", "WHAT", "FIX", "REASON"]
    assert first.startswith(str(tmp_path / "a.yaml"))
    assert first.endswith("InvalidYaml")
    assert second.endswith("UnknownKind")
    assert run("explain", "UnknownKind").returncode == 0


class Growing(BaseHTTPRequestHandler):
    """An admin API whose newest trace grows for a while, as spans arrive after the request was answered."""

    sizes: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        size = self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]
        trace = {"trace_id": "a" * 32, "start_unix_ms": time.time() * 1000, "duration_ms": 1.0, "span_count": size}
        body = json.dumps({"traces": [trace]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


def test_a_trace_of_this_moment_is_shown_when_it_is_whole() -> None:
    Growing.sizes = [2, 2, 2, 7, 11]
    with HTTPServer(("127.0.0.1", 0), Growing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = run("traces", "--last", "1", "--admin", f"http://127.0.0.1:{server.server_port}", "-o", "json")
        server.shutdown()
    assert json.loads(done.stdout)[0]["span_count"] == 11


def test_a_manifest_that_is_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: ConfigMap\nmetadata: {name: a}\n")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "gone.yaml")
    done = run("validate", str(tmp_path))
    assert done.returncode == 2
    assert "b.yaml cannot be read: No such file or directory" in done.stderr


UNREAD = """apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec:
  parentRefs: [{name: default, namespace: nexus}]
  useDefaultGateways: All
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]
"""


def test_a_field_that_is_left_out_is_a_warning(tmp_path: Path) -> None:
    """The object works without it, so that nothing has to be mended."""
    (tmp_path / "a.yaml").write_text(UNREAD)
    done = run("validate", str(tmp_path), "-o", "json")
    (problem,) = json.loads(done.stdout)["problems"]
    assert (done.returncode, problem["reason"], problem["severity"]) == (0, "FieldsNotImplemented", "warning")
    told = run("validate", str(tmp_path))
    assert told.returncode == 0
    assert "1 warning(s) in 1 objects" in told.stderr
    assert "FieldsNotImplemented (warning)" in told.stdout


def test_a_warning_beside_a_problem_does_not_hide_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(UNREAD + "  hostname: a.example\n")
    told = run("validate", str(tmp_path))
    assert told.returncode == 1
    assert "1 problem(s), 1 warning(s) in 1 objects" in told.stderr


def test_the_list_says_why_a_plugin_is_not_as_declared_and_its_names_can_be_used(tmp_path: Path) -> None:
    shop = yaml.safe_load((Path(__file__).parents[3] / "examples" / "shop" / "marketplace.yaml").read_text())
    for name, spec in (("asker", {"plugin": "request-id", "version": "==99"}), ("fine", {"plugin": "request-id"})):
        made = {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": name, "namespace": "a"}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**made, "spec": spec}))
    (tmp_path / "market.yaml").write_text(yaml.safe_dump(shop))
    nowhere = ("-f", str(tmp_path), "--admin", "http://127.0.0.1:1", "-o", "json")
    asker, fine = json.loads(run("plugin", "list", *nowhere).stdout)
    assert asker["why"].startswith("PluginVersionNotFound: ")
    assert fine["why"] == ""
    assert json.loads(run("plugin", "describe", "a/asker", *nowhere).stdout)["why"] == [asker["why"]]
    assert json.loads(run("plugin", "disable", "a/fine", "-f", str(tmp_path), "-o", "json").stdout)["changed"] is True
