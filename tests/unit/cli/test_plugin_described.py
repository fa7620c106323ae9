"""What `nexus plugin describe` makes of what manifests, gateways and clusters say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from nexus_cli.commands.plugin import _state
from nexus_cli.commands.plugin_live import show_seconds
from nexus_cli.plugins.described import describe
from nexus_cli.plugins.homes import Installed
from nexus_core.model.plugins import NexusPluginSpec
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Permissions, Release
from nexus_core.translate.translation import PassedOver


def release(version: str, **fields: Any) -> Release:
    return Release(
        name="demo", version=version, api=">=1,<2", package="demo", entry_point="demo:Demo", sha256="", url="demo.zip",
        changelog=f"What is new in {version}.", **fields,
    )  # fmt: skip


def installed(where: str = "plugin.yaml", status: dict[str, Any] | None = None, **spec: Any) -> Installed:
    raw: dict[str, Any] = {"spec": spec, "status": status or {}}
    return Installed("shop", "demo", NexusPluginSpec(**spec), where, raw=raw)


def row(**fields: Any) -> dict[str, Any]:
    return {
        "id": "shop/demo", "running_version": "1.0", "state": "loaded", "reason": "", "message": "", "calls": 10, "errors": 1,
        "calls_per_s": 2.0, "p50_s": 0.001, "p99_s": 0.02, "cpu_percent": 1.5, "memory_bytes": 2**20, "hooks": ["on_request"],
        "asked": msgspec.to_builtins(Permissions(network=("api.example.com",))),
        "granted": msgspec.to_builtins(Permissions()), "dependencies": [{"plugin": "core-auth", "version": "1.2"}],
        "candidate": None, **fields,
    }  # fmt: skip


def told(found: Installed, **given: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "state": "loaded", "version": "1.0", "row": None, "releases": (), "problems": (), "grants": Permissions(),
    }  # fmt: skip
    return describe(found, **{**values, **given})


def test_a_plugin_that_runs_says_so() -> None:
    found = told(installed(), row=row(), releases=(release("2.0"), release("1.0", summary="Does it.")))
    assert found["why"] == ["It runs as declared."]
    assert (found["summary"], found["changelog"]) == ("Does it.", "What is new in 1.0.")
    assert found["cost"]["p99Milliseconds"] == 20.0
    assert found["dependencies"] == ["plugin core-auth 1.2"]
    assert "candidate" not in found


def test_newer_releases_that_were_passed_over_are_told_with_the_reason() -> None:
    said = {"version": "1.1", "reason": "PythonIncompatible", "message": "It needs Python >=3.99."}
    of_cluster = told(installed("cluster", status={"passedOver": [said]}))
    of_files = told(installed(), passed_over=(PassedOver(**said),))
    assert of_cluster["passedOver"] == of_files["passedOver"] == ["1.1: It needs Python >=3.99. (PythonIncompatible)"]
    assert "passedOver" not in told(installed())


def test_what_is_asked_and_not_granted_is_told() -> None:
    found = told(installed(), row=row())
    assert (found["asks"], found["granted"], found["missing"]) == (
        ["network api.example.com"], ["nothing"], ["network api.example.com"],
    )  # fmt: skip
    granted = Permissions(network=("*.example.com",))
    found = told(installed(), row=row(granted=msgspec.to_builtins(granted)), grants=granted)
    assert found["granted"] == ["network *.example.com"]
    assert "missing" not in found


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            {"row": row(state="disabled", reason="PluginDisabled", message="20 of its 20 calls failed.")},
            ["PluginDisabled: 20 of its 20 calls failed."],
        ),
        (
            {"problems": [Problem(ObjectRef("NexusPlugin", "shop", "demo"), ".spec", "PluginNotFound", "There is none.", "Look.")]},
            ["PluginNotFound: There is none. Look. (.spec)"],
        ),
        (
            {
                "problems": [Problem(ObjectRef("NexusPlugin", "shop", "demo"), ".spec", "PluginConflict", "A needs B.", "Choose.")],
                "row": row(reason="PluginConflict", message="A needs B."),
            },
            ["PluginConflict: A needs B. Choose. (.spec)"],
        ),
    ],
)  # fmt: skip
def test_why_it_does_not_run_is_said_once(given: dict[str, Any], why: list[str]) -> None:
    assert told(installed(), **given)["why"] == why


def test_one_that_is_switched_off_says_that() -> None:
    assert told(installed(enabled=False))["why"] == ["It is switched off by spec.enabled: requests pass without it."]


def test_a_candidate_is_described_with_its_changelog() -> None:
    candidate = {
        "version": "2.0", "state": "refused", "reason": "PluginRolledBack", "message": "All failed.", "percent": 10.0, "seconds": 30.0,
        "requests": 20, "failed_requests": 3, "calls": 40, "errors": 20, "changelog": "Much.", "asked": {"consul": ["flags/"]},
    }  # fmt: skip
    found = told(installed(), row=row(candidate=candidate))["candidate"]
    assert found == {
        "version": "2.0", "state": "refused", "why": "PluginRolledBack: All failed.", "share": "10 % of the requests, for 30 s",
        "seen": "20 requests, 3 answered 5xx; 40 calls, 20 failed", "changelog": "Much.", "asks": ["Consul keys flags/"],
    }  # fmt: skip


def test_a_candidate_that_cannot_be_had_yet_does_not_run() -> None:
    candidate = {
        "version": "2.0", "state": "running", "reason": "PluginDigestMismatch", "message": "It has another SHA-256.", "percent": 10.0,
        "seconds": 30.0,
    }  # fmt: skip
    found = told(installed(), row=row(candidate=candidate))["candidate"]
    assert (found["state"], found["why"]) == ("waiting", "PluginDigestMismatch: It has another SHA-256.")
    live = {"shop/demo": row(candidate=candidate, version="1.0")}
    assert _state(installed(), live) == (
        "loaded", "1.0", "PluginDigestMismatch: 2.0 cannot be tried. It has another SHA-256.",
    )  # fmt: skip
    live = {"shop/demo": row(candidate={**candidate, "reason": "", "message": ""}, version="1.0")}
    assert _state(installed(), live) == ("loaded", "1.0", "2.0 is tried beside it.")


def test_a_clusters_status_says_the_same() -> None:
    status = {
        "candidate": "2.0", "available": "3.0", "callsPerSecond": 4.0, "p99Milliseconds": 7.0,
        "lock": {
            "refused": [{"version": "1.5", "reason": "PluginRolledBack", "message": "It failed.", "sha256": "00"}],
            "dependencies": [{"name": "core-auth", "version": "1.2", "sha256": "00"}], "wheels": [{"name": "jmespath", "version": "1.0.1"}],
        },
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted"},
            {"type": "Programmed", "status": "False", "reason": "PluginDisabled", "message": "On 1 of 2 gateways."},
            {"type": "Ready", "status": "False", "reason": "PluginDisabled", "message": "On 1 of 2 gateways."},
        ],
    }  # fmt: skip
    found = told(installed("cluster", status), state="PluginDisabled", releases=(release("2.0"), release("1.0")))
    assert found["why"] == ["PluginDisabled: On 1 of 2 gateways."]
    assert found["candidate"] == {"version": "2.0", "state": "running", "changelog": "What is new in 2.0."}
    assert found["available"] == "3.0 is there; spec.updatePolicy holds it back"
    assert found["refused"] == [{"version": "1.5", "reason": "PluginRolledBack", "message": "It failed."}]
    assert found["dependencies"] == ["plugin core-auth 1.2", "wheel jmespath 1.0.1"]
    assert found["cost"] == {"callsPerSecond": 4.0, "p99Milliseconds": 7.0}


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "-"), (2.5, "2.5 s"), (0.012, "12 ms"), (0.0000015, "1.5 µs"), (0.0000002, "0.2 µs")]
)
def test_durations_are_shown_in_their_unit(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


def test_the_list_says_which_version_is_tried() -> None:
    candidate = {"version": "2.0", "state": "running", "reason": "", "message": ""}
    found = _state(installed(), {"shop/demo": row(candidate=candidate)})
    assert found == ("loaded", "1.0", "2.0 is tried beside it.")
    assert _state(installed(), {"shop/demo": row(candidate={**candidate, "state": "passed"})})[2] == ""
