"""Hooks on manifests: what they see, what they may return, and how often they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.refusals import Refusal
from nexus_core.model.lean import lean
from nexus_core.model.load import parse
from nexus_core.model.resources import Resource
from nexus_core.translate.hooked import MAX_MESSAGE, apply_hooks
from nexus_core.translate.memory import Memory
from nexus_core.translate.session import Session

NEXUS = "nexus.dev/v1alpha1"


class Hook:
    def __init__(self, does: Callable[[Manifest], Any], *, namespace: str = "shop", policy: Any = "open") -> None:
        self.namespace, self.name, self.failure_policy = namespace, f"{namespace}/hook", policy
        self._does = does
        self.seen: list[Manifest] = []

    def call(self, manifest: Manifest) -> Manifest | Refusal:
        self.seen.append(manifest)
        found: Manifest | Refusal = self._does(manifest)
        return found


def service(name: str = "orders", **metadata: Any) -> Resource:
    spec = {"backend": {"addresses": ["10.0.0.1:80"]}}
    return parse(
        {
            "apiVersion": NEXUS, "kind": "NexusService", "spec": spec,
            "metadata": {"name": name, "namespace": "shop", "generation": 3, "uid": "u", **metadata},
        }
    )  # fmt: skip


def run(resource: Resource, *hooks: Hook, memory: Memory | None = None) -> Resource:
    (found,) = apply_hooks([resource], hooks, memory or Memory())
    return found


def with_address(manifest: Manifest) -> Manifest:
    return manifest.with_spec({"backend": {"addresses": ["10.0.0.9:80"]}})


def test_a_hook_sees_the_object_and_what_it_returns_is_read() -> None:
    hook = Hook(with_address)
    found = run(service(labels={"a": "b"}, annotations={"c": "d"}), hook)
    spec = {"backend": {"addresses": ["10.0.0.1:80"]}}
    assert hook.seen == [Manifest("NexusService", "shop", "orders", spec, {"a": "b"}, {"c": "d"})]
    assert found.spec == parse({**service().raw, "spec": {"backend": {"addresses": ["10.0.0.9:80"]}}}).spec
    assert (found.generation, found.labels, found.annotations) == (3, {"a": "b"}, {"c": "d"})
    assert found.raw["metadata"]["uid"] == "u"


def test_hooks_run_one_after_the_other() -> None:
    second = Hook(lambda manifest: manifest)
    run(service(), Hook(with_address), second)
    assert second.seen[0].spec == {"backend": {"addresses": ["10.0.0.9:80"]}}


def test_an_object_that_no_hook_changes_is_the_very_same() -> None:
    resource = service()
    assert run(resource, Hook(lambda manifest: manifest)) is resource
    assert run(resource, Hook(with_address, namespace="other")) is resource
    assert list(apply_hooks([resource], (), Memory())) == [resource]


def test_a_hook_cannot_change_the_object_as_it_was_applied() -> None:
    def spoil(manifest: Manifest) -> Manifest:
        manifest.spec["backend"]["addresses"].append("10.6.6.6:80")
        raise ValueError("after all")

    resource = service()
    assert run(resource, Hook(spoil)) is resource
    assert resource.raw["spec"] == {"backend": {"addresses": ["10.0.0.1:80"]}}


@pytest.mark.parametrize(
    ("kind", "api", "seen"),
    [
        ("NexusPolicy", NEXUS, True),
        ("HTTPRoute", "gateway.networking.k8s.io/v1", True),
        ("Gateway", "gateway.networking.k8s.io/v1", False),
        ("NexusPlugin", NEXUS, False),
        ("Secret", "v1", False),
        ("ConfigMap", "v1", False),
    ],
)
def test_kinds_that_hooks_see(kind: str, api: str, seen: bool) -> None:
    hook = Hook(lambda manifest: manifest)
    run(parse({"apiVersion": api, "kind": kind, "metadata": {"name": "x", "namespace": "shop"}, "spec": {}}), hook)
    assert bool(hook.seen) is seen


def test_a_refusal_is_a_problem_of_the_object() -> None:
    resource = service()
    found = run(resource, Hook(lambda _: Refusal("NoOwner", "It has no label owner. Add one")))
    assert found.spec is None
    assert not found.readable
    (problem,) = found.problems
    assert (problem.reason, problem.path, problem.where) == ("PluginRefused", ".", resource.ref)
    assert problem.what == "NexusPlugin shop/hook refuses it: It has no label owner. Add one (NoOwner)."
    assert found.raw is resource.raw


def test_a_long_refusal_is_cut() -> None:
    (problem,) = run(service(), Hook(lambda _: Refusal("Long", "x" * 5000))).problems
    assert len(problem.what) < MAX_MESSAGE + 100


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda m: None, "TypeError: on_manifest returned NoneType"),
        (lambda m: {"spec": m.spec}, "TypeError: on_manifest returned dict"),
        (lambda m: m.with_spec([]), "neither a Manifest nor a Refusal"),
        (lambda m: Manifest(m.kind, "other", m.name, m.spec), "ValueError: on_manifest returned another object"),
        (lambda m: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_hook_does_wrong_costs_what_its_failure_policy_says(answer: Any, says: str) -> None:
    resource = service()
    assert run(resource, Hook(answer)) is resource
    (problem,) = run(resource, Hook(answer, policy="closed")).problems
    assert problem.reason == "PluginRefused"
    assert says in problem.what


def test_what_a_hook_makes_is_read_like_anything_else() -> None:
    found = run(service(), Hook(lambda m: m.with_spec({"backend": {"addresses": ["nowhere"]}})))
    assert found.spec is None
    assert {p.reason for p in found.problems} == {"InvalidSpec"}


def test_a_broken_object_is_left_to_be_told_as_such() -> None:
    hook = Hook(with_address)
    broken = parse({"apiVersion": NEXUS, "kind": "NexusService", "metadata": {"name": "x", "namespace": "shop"}})
    assert run(broken, hook) is broken
    assert hook.seen == []


def test_resources_without_specs_in_memory_are_hooked_too() -> None:
    found = run(lean(service()), Hook(with_address))
    assert found.spec == run(service(), Hook(with_address)).spec


def test_hooks_run_again_only_for_another_object_or_other_hooks() -> None:
    session, resource, hook, other = Session(), service(), Hook(with_address), Hook(lambda manifest: manifest)
    first = session.translate([resource], manifest_hooks=[hook])
    assert first.snapshot.upstreams == session.translate([resource], manifest_hooks=[hook]).snapshot.upstreams
    assert len(hook.seen) == 1
    session.translate([resource], manifest_hooks=[hook, other])
    assert (len(hook.seen), len(other.seen)) == (2, 1)
    session.translate([service()], manifest_hooks=[hook, other])
    assert (len(hook.seen), len(other.seen)) == (3, 2)
    without = session.translate([resource])
    assert without.snapshot.upstreams != first.snapshot.upstreams
