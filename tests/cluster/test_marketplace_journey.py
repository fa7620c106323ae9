"""A plugin's life on Kubernetes, as its users see it: a signed marketplace, `kubectl apply`, updates that prove themselves or are taken
back, and gateways that start again without the marketplace.

Traffic flows all the time; what fails of it is counted.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nexus_testbed.cluster import CommandError
from shop import GATEWAY_PORT, NODE, Shop
from traffic import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

PORT = 9100
URL = f"http://{NODE}:{PORT}"
NEXUS = str(Path(sys.executable).with_name("nexus"))
MARK = "x-greet"
PATH = "/catalog/items"
PERCENT = 20
GOOD = """
from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead


class Greet(Plugin):
    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header("x-greet", "{version}")
"""
SECRETIVE = """
from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead


class Greet(Plugin):
    def __init__(self, config) -> None:
        super().__init__(config)
        self._greeting = config["greeting"]

    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        return response.with_header("x-greet", self._greeting)
"""
BAD = """
from nexus_sdk.plugin import Plugin, RequestHead, ResponseHead


class Greet(Plugin):
    def on_response(self, request: RequestHead, response: ResponseHead) -> ResponseHead:
        raise RuntimeError("no greeting today")
"""


TOKEN = "t0ken-of-the-marketplace"
GUARDED = """
import functools, http.server, sys

class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer " + sys.argv[3]:
            self.send_error(401)
        else:
            super().do_GET()

address, port = sys.argv[2].split(":")
handler = functools.partial(Handler, directory=sys.argv[1])
http.server.ThreadingHTTPServer((address, int(port)), handler).serve_forever()
"""


class Market:
    """A marketplace that `nexus marketplace build` makes and `serve` serves, in the cluster's network."""

    def __init__(self, shop: Shop, directory: Path) -> None:
        self._shop = shop
        self._directory = directory
        self._server: subprocess.Popen[Any] | None = None

    def publish(self, version: str, code: str = GOOD) -> str:
        """Build a release into the marketplace; return the NexusMarketplace that the command prints."""
        package = self._directory / f"source-{version}" / "acme_greet"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(code.replace("{version}", version))
        manifest = {
            "name": "greet", "version": version, "api": ">=1.1,<2", "entryPoint": "acme_greet.plugin:Greet",
            "summary": "Greets clients by a header.", "failurePolicy": "closed", "hooks": ["on_response"],
            "permissions": {"headers": {"read": [MARK], "write": [MARK]}},
            "configSchema": {
                "type": "object", "additionalProperties": False,
                "properties": {"greeting": {"type": "string", "writeOnly": True}},
            },
        }  # fmt: skip
        (package / "plugin.yaml").write_text(yaml.safe_dump(manifest))
        return self._shop.cluster.run_in_net(
            [
                NEXUS, "marketplace", "build", str(package), "--key", str(self._directory / "key.pem"), "--publisher", "acme",
                "--to", str(self._directory / "public"), "--url", URL,
            ]
        )  # fmt: skip

    def into_config_map(self, namespace: str, name: str) -> None:
        """Put all files into a ConfigMap, `/` in their paths written `__`."""
        public = self._directory / "public"
        files = [f for f in sorted(public.rglob("*")) if f.is_file() and not f.name.startswith(".")]
        options = [f"--from-file={f.relative_to(public).as_posix().replace('/', '__')}={f}" for f in files]
        made = self._shop.cluster.kubectl(
            "create", "configmap", name, "-n", namespace, *options, "--dry-run=client", "-o", "yaml"
        )
        self._shop.cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=made)

    def serve(self) -> None:
        argv = [NEXUS, "marketplace", "serve", str(self._directory / "public"), "--listen", f"{NODE}:{PORT}"]
        self._server = self._shop.cluster.spawn_in_net([*argv, "--key", str(self._directory / "key.pem")])

        def answers() -> bool:
            try:
                return self._shop.cluster.http_get(f"{URL}/metadata/timestamp.json").status == 200
            except OSError:
                return False

        self._shop.eventually(answers, "the marketplace is served")

    def serve_guarded(self) -> None:
        """Serve it to those alone who show `TOKEN`."""
        argv = [sys.executable, "-c", GUARDED, str(self._directory / "public"), f"{NODE}:{PORT}", TOKEN]
        self._server = self._shop.cluster.spawn_in_net(argv)

        def asks() -> bool:
            try:
                return self._shop.cluster.http_get(f"{URL}/metadata/timestamp.json").status == 401
            except OSError:
                return False

        self._shop.eventually(asks, "the marketplace asks for a login")

    def make_anew(self, version: str) -> None:
        """Begin again with nothing, under the same key."""
        shutil.rmtree(self._directory / "public")
        self.publish(version)

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait(30)
            self._server = None

    def refresh(self, word: str) -> None:
        """Have the operator look now, as a person would."""
        self._shop.kubectl("annotate", "nexusmarketplace", "acme", f"nexus.dev/refresh={word}", "--overwrite")


def plugin(versions: str = "", *, enabled: bool = True) -> dict[str, Any]:
    return {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin", "metadata": {"name": "greet"},
        "spec": {
            "marketplace": "acme", "version": versions, "enabled": enabled,
            "targetRefs": [{"group": "nexus.dev", "kind": "NexusService", "name": "catalog"}],
            "grants": {"headers": {"read": [MARK], "write": [MARK]}},
            "canary": {"percent": PERCENT, "seconds": 3, "minCalls": 10},
        },
    }  # fmt: skip


@pytest.fixture
def market(shop: Shop, tmp_path: Path) -> Iterator[Market]:
    found = Market(shop, tmp_path)
    yield found
    found.stop()
    shop.kubectl("delete", "nexusplugin", "greet", "--ignore-not-found")
    shop.kubectl("delete", "nexusmarketplace", "acme", "--ignore-not-found")


@pytest.fixture
def traffic(shop: Shop) -> Iterator[Traffic]:
    shop.wait_ready("catalog")
    found = Traffic(shop, PATH, MARK)
    yield found
    found.stop()


def row(shop: Shop, kind: str, name: str) -> dict[str, str]:
    """Return one row of `kubectl get`, by the columns' names."""
    header, line = shop.kubectl("get", kind, name).rstrip("\n").splitlines()
    starts = [header.index(word) for word in header.split()]
    cells = [line[a:b].strip() for a, b in itertools.pairwise([*starts, None])]
    return dict(zip(header.split(), cells, strict=True))


def wait_row(shop: Shop, what: str, **cells: str) -> dict[str, str]:
    """Wait until `kubectl get nexusplugin greet` shows these cells."""
    last: dict[str, str] = {}

    def shows() -> bool:
        last.clear()
        last.update(row(shop, "nexusplugin", "greet"))
        return all(last.get(name) == cell for name, cell in cells.items())

    try:
        shop.eventually(shows, what, 60)
    except Exception as err:
        shown = shop.kubectl("get", "nexusplugin", "greet", "-o", "yaml")
        raise AssertionError(f"{what}: {last}\n{shown}") from err
    return last


def events(shop: Shop) -> list[tuple[str, str, str]]:
    """(type, reason, message) of the plugin's events."""
    found = json.loads(shop.kubectl("get", "events", "-o", "json", "--field-selector", "involvedObject.name=greet"))
    return [(each["type"], each["reason"], each["message"]) for each in found["items"]]


def wait_event(shop: Shop, reason: str) -> tuple[str, str, str]:
    return shop.eventually(
        lambda: next((each for each in events(shop) if each[1] == reason), None), f"an event {reason}: {events(shop)}"
    )


def everywhere(shop: Shop, mark: str) -> bool:
    """Whether each gateway pod, asked by itself, answers with this mark."""
    found = []
    for pod in shop.gateway_pods():
        address = pod["status"].get("podIP")
        if not address or "deletionTimestamp" in pod["metadata"]:
            return False
        try:
            found.append(shop.cluster.http_get(f"http://{address}:{GATEWAY_PORT}{PATH}").headers.get(MARK, ""))
        except OSError:
            return False
    return bool(found) and set(found) == {mark}


def test_the_journey_of_a_plugin(shop: Shop, market: Market, traffic: Traffic) -> None:
    # A marketplace and a plugin.
    manifest = market.publish("1.0.0")
    market.serve()
    declared = yaml.safe_load(manifest)
    declared["metadata"]["name"] = "acme"
    shop.apply(declared, namespaced=False)
    shop.wait_condition("nexusmarketplace", "acme", "Ready", "True")
    assert row(shop, "nexusmarketplace", "acme")["PLUGINS"] == "1"
    shop.apply(plugin())
    wait_row(shop, "1.0.0 runs", VERSION="1.0.0", STATE="Running", READY="True")
    shop.eventually(lambda: everywhere(shop, "1.0.0"), "each gateway greets")
    shop.eventually(lambda: set(traffic.marks()) == {"1.0.0"}, "the traffic changed")
    assert wait_event(shop, "PluginInstalled")[0] == "Normal"
    shop.eventually(lambda: float(row(shop, "nexusplugin", "greet")["CALLS/S"] or 0) > 0, "calls are counted", 60)

    # An update proves itself, then takes over.
    market.publish("1.1.0")
    market.refresh("1.1.0")
    wait_row(shop, "1.1.0 is tried", VERSION="1.0.0", STATE="Canary 1.1.0")
    wait_row(shop, "1.1.0 took over", VERSION="1.1.0", STATE="Running", READY="True")
    shop.eventually(lambda: everywhere(shop, "1.1.0"), "each gateway greets anew")
    wait_event(shop, "CanaryStarted")
    assert "1.0.0" in wait_event(shop, "PluginUpdated")[2]
    assert traffic.failures() == [], "no request failed so far"

    # A bad one is taken back by itself.
    before = len(traffic)
    market.publish("1.2.0", BAD)
    market.refresh("1.2.0")
    wait_row(shop, "1.2.0 was taken back", VERSION="1.1.0", STATE="RolledBack", READY="True")
    shop.eventually(lambda: everywhere(shop, "1.1.0"), "each gateway greets as before")
    condition = shop.wait_condition("nexusplugin", "greet", "Updated", "False", reason="PluginRolledBack")
    assert "1.2.0 was tried and taken back; 1.1.0 stays in use." in condition["message"]
    kind, _, message = wait_event(shop, "PluginRolledBack")
    assert kind == "Warning"
    assert "1.2.0" in message
    during = traffic.since(before)
    failed = traffic.failures(before)
    # Chance has some say in so few, and what was chosen before the last word is out runs on.
    assert len(failed) <= max(20, len(during) * 1.5 * PERCENT / 100), f"{len(failed)} of {len(during)} failed"
    assert all(each.status == 503 for each in failed), failed[:5]

    # What was refused stays refused, also when the operator is killed.
    for pod in shop.operator_pods():
        shop.cluster.kill_pod_process(pod["metadata"]["name"], shop.namespace_of_nexus)
    market.refresh("again")
    calm = len(traffic)
    shop.eventually(lambda: len(traffic) > calm + 200, "traffic flows")
    refused = shop.get("nexusplugin", "greet")["status"]["lock"]["refused"]
    assert [each["version"] for each in refused] == ["1.2.0"]
    wait_row(shop, "1.1.0 still runs", VERSION="1.1.0", STATE="RolledBack", READY="True")
    assert set(traffic.marks()) == {"1.1.0"}
    assert traffic.failures(calm) == []
    assert len([each for each in events(shop) if each[1] == "PluginRolledBack"]) == 1, "told once"

    # Off and on again, without the release that was taken back: switching off forgives, and the range leaves it out.
    shop.apply(plugin("<1.2", enabled=False))
    wait_row(shop, "it is off", STATE="Off", READY="True")
    shop.eventually(lambda: everywhere(shop, ""), "no gateway greets")
    shop.apply(plugin("<1.2"))
    wait_row(shop, "it is on", VERSION="1.1.0", STATE="Running", READY="True")
    shop.eventually(lambda: everywhere(shop, "1.1.0"), "each gateway greets again")
    wait_event(shop, "PluginSwitchedOff")
    wait_event(shop, "PluginEnabled")

    # Uninstalled, and installed again.
    shop.kubectl("delete", "nexusplugin", "greet")
    shop.eventually(lambda: everywhere(shop, ""), "it is gone everywhere")
    shop.apply(plugin("<1.2"))
    wait_row(shop, "it is back", VERSION="1.1.0", STATE="Running", READY="True")
    shop.eventually(lambda: everywhere(shop, "1.1.0"), "each gateway greets once more")
    assert traffic.failures(calm) == [], "nothing of all this failed a request"

    # The marketplace is away, and gateways start with empty disks.
    market.stop()
    market.refresh("away")
    shop.wait_condition("nexusmarketplace", "acme", "Fetched", "False", reason="MarketplaceUnreachable", timeout_s=60)
    old = {pod["metadata"]["uid"] for pod in shop.gateway_pods()}
    for pod in shop.gateway_pods():
        shop.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", shop.namespace_of_nexus, "--wait=true")
    shop.eventually(
        lambda: old.isdisjoint({pod["metadata"]["uid"] for pod in shop.gateway_pods()}) and everywhere(shop, "1.1.0"),
        "new gateways have the same plugin",
        90,
    )
    wait_row(shop, "it runs everywhere", VERSION="1.1.0", STATE="Running", READY="True")


def test_a_marketplace_that_another_key_signed_is_not_trusted(shop: Shop, market: Market) -> None:
    declared = yaml.safe_load(market.publish("1.0.0"))
    market.serve()
    declared["metadata"]["name"] = "acme"
    declared["spec"]["publishers"][0]["publicKey"] = "A" * 43 + "="
    shop.apply(declared, namespaced=False)
    condition = shop.wait_condition("nexusmarketplace", "acme", "Fetched", "False", reason="MarketplaceNotTrusted")
    assert "pinned" in condition["message"]
    assert row(shop, "nexusmarketplace", "acme")["REASON"] == "MarketplaceNotTrusted"
    with pytest.raises(CommandError, match="one place"):
        shop.apply({**declared, "spec": {**declared["spec"], "source": {}}}, namespaced=False)


def test_a_marketplace_in_a_config_map_and_a_configuration_from_a_secret(shop: Shop, market: Market) -> None:
    """Gateways read neither: the artefact comes to them through Consul, the secret sealed."""
    declared = yaml.safe_load(market.publish("2.0.0", SECRETIVE))
    declared["metadata"]["name"] = "acme"
    declared["spec"]["source"] = {"configMap": {"namespace": shop.namespace, "name": "acme-plugins"}}
    market.into_config_map(shop.namespace, "acme-plugins")
    shop.kubectl("create", "secret", "generic", "greeting", "--from-literal=word=hello")
    try:
        shop.apply(declared, namespaced=False)
        shop.wait_condition("nexusmarketplace", "acme", "Ready", "True")
        wanted = plugin()
        wanted["spec"]["configFrom"] = [{"path": "greeting", "secretRef": {"name": "greeting", "key": "word"}}]
        shop.apply(wanted)
        wait_row(shop, "2.0.0 runs", VERSION="2.0.0", STATE="Running", READY="True")
        shop.eventually(lambda: everywhere(shop, "hello"), "each gateway has the secret")
        changed = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "greeting"},
            "stringData": {"word": "good morning"},
        }
        shop.apply(changed)
        shop.eventually(lambda: everywhere(shop, "good morning"), "another secret is another configuration")
        published = shop.cluster.http_get(f"{shop.consul}/v1/kv/nexus/?recurse&raw").text
        assert "good morning" not in published, "nobody reads it in Consul"

        market.publish("2.1.0")
        market.into_config_map(shop.namespace, "acme-plugins")
        wait_row(shop, "2.1.0 took over, without being asked to look", VERSION="2.1.0", STATE="Running")
        shop.eventually(lambda: everywhere(shop, "2.1.0"), "each gateway greets anew")
    finally:
        shop.kubectl("delete", "secret/greeting", "configmap/acme-plugins", "--ignore-not-found")


def test_a_marketplace_behind_a_login_is_followed_and_trusted_anew_when_that_is_said(
    shop: Shop, market: Market
) -> None:
    market.publish("1.0.0")
    declared = yaml.safe_load(market.publish("1.1.0"))
    market.serve_guarded()
    declared["metadata"]["name"] = "acme"
    declared["spec"]["source"]["secretRef"] = {"namespace": shop.namespace, "name": "acme-login"}
    create = ("create", "secret", "generic", "acme-login", f"--from-literal=token={TOKEN}")
    try:
        shop.kubectl(*create)
        shop.apply(declared, namespaced=False)
        condition = shop.wait_condition("nexusmarketplace", "acme", "Fetched", "False", reason="MarketplaceUnreachable")
        assert "is of type Opaque, and not for logins of marketplaces" in condition["message"]
        shop.kubectl("delete", "secret", "acme-login")
        shop.kubectl(*create, "--type=nexus.dev/marketplace-login")
        shop.wait_condition("nexusmarketplace", "acme", "Fetched", "True")
        shop.apply(plugin())
        wait_row(shop, "1.1.0 runs", VERSION="1.1.0", STATE="Running", READY="True")
        shop.eventually(lambda: everywhere(shop, "1.1.0"), "each gateway has the plugin, and none the login")
        assert TOKEN not in shop.cluster.http_get(f"{shop.consul}/v1/kv/nexus/?recurse&raw").text
        assert TOKEN not in shop.kubectl("get", "nexusmarketplaces,nexusplugins,events", "-o", "yaml")

        market.make_anew("1.2.0")
        market.refresh("anew")
        condition = shop.wait_condition("nexusmarketplace", "acme", "Fetched", "False", reason="MarketplaceRolledBack")
        assert (
            'kubectl annotate nexusmarketplace acme nexus.dev/trust-anew="$(date +%s)" --overwrite'
            in condition["message"]
        )
        shop.kubectl("annotate", "nexusmarketplace", "acme", "nexus.dev/trust-anew=1", "--overwrite")
        shop.wait_condition("nexusmarketplace", "acme", "Fetched", "True")
        shop.kubectl("annotate", "nexusmarketplace", "acme", "nexus.dev/trust-anew-")
        wait_row(shop, "1.2.0 took over", VERSION="1.2.0", STATE="Running", READY="True")
        shop.wait_condition("nexusmarketplace", "acme", "Fetched", "True")
    finally:
        shop.kubectl("delete", "secret/acme-login", "--ignore-not-found")
