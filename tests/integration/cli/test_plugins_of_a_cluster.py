"""`nexus plugin` without -f: what it asks of a Kubernetes API server, and what it makes of the answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

PLURAL = "/apis/nexus.dev/v1alpha1"


class Cluster:
    """The few paths of an API server that the command uses, over a dict; the cluster tests have the real one."""

    def __init__(self) -> None:
        self.plugins: dict[str, dict[str, Any]] = {}
        self.marketplaces: dict[str, dict[str, Any]] = {}
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, status: int, body: Any) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _body(self) -> Any:
                return json.loads(self.rfile.read(int(self.headers["content-length"])))

            def do_GET(self) -> None:
                if self.path.startswith(f"{PLURAL}/nexusmarketplaces/"):
                    found = cluster.marketplaces.get(self.path.rpartition("/")[2])
                    self._answer(200 if found else 404, found or {"kind": "Status", "message": "not found"})
                    return
                assert self.path.split("?")[0] == f"{PLURAL}/nexusplugins"
                self._answer(200, {"items": list(cluster.plugins.values())})

            def do_PATCH(self) -> None:
                assert "merge-patch" in self.headers["content-type"]
                name = self.path.split("?")[0].rpartition("/")[2]
                if name == "forbidden":
                    self._answer(403, {"kind": "Status", "message": "nexusplugins is forbidden"})
                    return
                cluster.plugins[name]["spec"].update(self._body()["spec"])
                self._answer(200, cluster.plugins[name])

            def do_DELETE(self) -> None:
                name = self.path.split("?")[0].rpartition("/")[2]
                del cluster.plugins[name]
                self._answer(200, {"kind": "Status", "status": "Success"})

            def do_POST(self) -> None:
                assert self.path.split("?")[0] == f"{PLURAL}/namespaces/shop/nexusplugins"
                body = self._body()
                cluster.plugins[body["metadata"]["name"]] = body
                self._answer(201, body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, name: str, *, enabled: bool, **status: Any) -> None:
        self.plugins[name] = {
            "apiVersion": "nexus.dev/v1alpha1",
            "kind": "NexusPlugin",
            "metadata": {"name": name, "namespace": "shop", "generation": 1},
            "spec": {"enabled": enabled},
            "status": status,
        }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(document))
    return path


def nexus(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    command = [sys.executable, "-m", "nexus_cli", "plugin", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_list_shows_the_state_of_the_conditions(cluster: Cluster, kubeconfig: Path) -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Loaded"}
    broken = {"type": "Ready", "status": "False", "reason": "PluginNotFound", "message": "There is none."}
    cluster.add("good", enabled=True, conditions=[ready], version="1.2.0")
    cluster.add("lost", enabled=True, conditions=[broken])
    done = nexus("list", "--kubeconfig", str(kubeconfig), "-o", "json")
    found = {each["name"]: (each["state"], each["version"], each["why"]) for each in json.loads(done.stdout)}
    assert found == {"good": ("ready", "1.2.0", ""), "lost": ("PluginNotFound", "", "There is none.")}


def test_a_configuration_that_does_not_fit_is_not_installed(cluster: Cluster, kubeconfig: Path) -> None:
    cluster.marketplaces["official"] = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusMarketplace", "metadata": {"name": "official"},
        "spec": {"source": {"bundled": True}, "publishers": [{"name": "nexus", "publicKey": "A" * 43 + "="}]},
    }  # fmt: skip
    install = ("install", "request-id", "-n", "shop", "--kubeconfig", str(kubeconfig), "--config")
    done = nexus(*install, '{"header": 5}')
    assert (done.returncode, cluster.plugins) == (2, {})
    assert "NexusPlugin shop/request-id .spec.config.header: 5 is not of type 'string'." in done.stderr
    del cluster.marketplaces["official"]  # its index is not at hand: the operator says it later
    assert nexus(*install, '{"header": 5}').returncode == 0
    assert "request-id" in cluster.plugins


def test_enable_and_disable_patch_one_field(cluster: Cluster, kubeconfig: Path) -> None:
    cluster.add("api-key", enabled=False)
    done = nexus("enable", "api-key", "--kubeconfig", str(kubeconfig), "--context", "x")
    assert done.returncode == 0, done.stderr
    assert cluster.plugins["api-key"]["spec"] == {"enabled": True}
    assert nexus("disable", "api-key", "--kubeconfig", str(kubeconfig)).returncode == 0
    assert cluster.plugins["api-key"]["spec"] == {"enabled": False}


def test_install_creates_the_object(cluster: Cluster, kubeconfig: Path) -> None:
    done = nexus(
        "install", "request-id", "-n", "shop", "--target", "NexusService/orders", "--kubeconfig", str(kubeconfig)
    )
    assert done.returncode == 0, done.stderr
    spec = cluster.plugins["request-id"]["spec"]
    assert spec["targetRefs"] == [{"kind": "NexusService", "name": "orders"}]
    assert spec["version"] == ">=1.1,<2"
    again = nexus("install", "request-id", "-n", "shop", "--kubeconfig", str(kubeconfig))
    assert (again.returncode, "installed already" in again.stderr) == (2, True)


def test_what_the_server_refuses_is_told_in_its_words(cluster: Cluster, kubeconfig: Path) -> None:
    cluster.add("forbidden", enabled=False)
    done = nexus("enable", "forbidden", "--kubeconfig", str(kubeconfig))
    assert done.returncode == 2
    assert "403 Forbidden): nexusplugins is forbidden" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_away_is_one_line(cluster: Cluster, kubeconfig: Path) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace(cluster.url, "http://127.0.0.1:9"))
    done = nexus("list", "--kubeconfig", str(kubeconfig))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be reached" in done.stderr


def test_update_and_uninstall_change_the_object(cluster: Cluster, kubeconfig: Path) -> None:
    cluster.add("api-key", enabled=True)
    done = nexus("update", "api-key", "--to", "1.4.0", "--kubeconfig", str(kubeconfig))
    assert done.returncode == 0, done.stderr
    assert cluster.plugins["api-key"]["spec"] == {"enabled": True, "version": "==1.4.0"}
    wrong = nexus("update", "api-key", "--to", "newest", "--kubeconfig", str(kubeconfig))
    assert (wrong.returncode, "--to 'newest' is no version" in wrong.stderr) == (2, True)
    done = nexus("uninstall", "api-key", "--kubeconfig", str(kubeconfig))
    assert done.returncode == 0, done.stderr
    assert cluster.plugins == {}
    gone = nexus("uninstall", "api-key", "--kubeconfig", str(kubeconfig))
    assert (gone.returncode, "There is no NexusPlugin 'api-key'" in gone.stderr) == (1, True)


def test_describe_says_why_from_the_conditions(cluster: Cluster, kubeconfig: Path) -> None:
    why = {"type": "Ready", "status": "False", "reason": "PluginDisabled", "message": "20 of its 20 calls failed."}
    cluster.add("demo", enabled=True, conditions=[why], version="1.2.0", candidate="1.3.0")
    done = nexus("describe", "demo", "--kubeconfig", str(kubeconfig), "-o", "json")
    found = json.loads(done.stdout)
    assert found["why"] == ["PluginDisabled: 20 of its 20 calls failed."]
    assert (found["version"], found["candidate"]) == ("1.2.0", {"version": "1.3.0", "state": "running"})
