"""Parsing: what a manifest becomes, and what users read when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_core.model.load import parse, parse_text
from nexus_core.model.services import NexusServiceSpec
from nexus_core.problems import ObjectRef


def service(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "nexus.dev/v1alpha1",
        "kind": "NexusService",
        "metadata": {"name": "orders", **metadata},
        "spec": spec,
    }


SOUND = {"workload": {"image": "shop/orders:1"}}


def test_a_sound_manifest_keeps_its_metadata() -> None:
    found = parse(
        service(SOUND, namespace="shop", generation=3, labels={"a": "b"}, creationTimestamp="2026-01-01T00:00:00Z")
    )
    assert found.ref == ObjectRef("NexusService", "shop", "orders")
    assert (found.generation, found.labels, found.created_at) == (3, {"a": "b"}, "2026-01-01T00:00:00Z")
    assert isinstance(found.spec, NexusServiceSpec)
    assert found.spec.workload is not None
    assert found.spec.workload.port == 8000
    assert not found.problems


def test_an_object_without_a_namespace_is_in_default() -> None:
    assert parse(service(SOUND)).ref.namespace == "default"


@pytest.mark.parametrize(
    ("spec", "path", "says"),
    [
        ({"workload": {"image": "x", "replicas": "2"}}, ".spec.workload.replicas", '"2" is not a whole number.'),
        ({"workload": {"image": "x", "replicas": 1.5}}, ".spec.workload.replicas", "whole number"),
        ({"workload": {"image": "x", "replicas": True}}, ".spec.workload.replicas", "whole number"),
        ({"workload": {"image": "x", "replicas": -1}}, ".spec.workload.replicas", "greater than or equal to 0"),
        ({"workload": {}}, ".spec.workload.image", "Required value."),
        ({"workload": {"image": "x", "prot": 1}}, ".spec.workload.prot", 'Did you mean "port"?'),
        ({"wrkload": {}}, ".spec.wrkload", 'Did you mean "workload"?'),
        ({**SOUND, "type": "grapql"}, ".spec.type", 'Did you mean "graphql"?'),
        ({**SOUND, "expose": {"path": "x"}}, ".spec.expose.path", "Put a '/' in front of it."),
        ({**SOUND, "expose": {"path": "/x", "hostnames": ["A"]}}, ".spec.expose.hostnames[0]", "should match"),
        ({**SOUND, "policy": {"retry": {True: ["reset"]}}}, ".spec.policy.retry.true", 'Write "when".'),
        ({"process": {"command": []}}, ".spec.process.command", "at least 1"),
        ({"process": {"command": "serve"}}, ".spec.process.command", "a list"),
        ([], ".spec", "a map"),
        (None, ".spec", "Required value."),
        ({"workload": {"image": float("nan")}}, ".spec", "JSON cannot"),
        ({"workload": {"image": b"x"}}, ".spec", "JSON cannot"),
        (
            {"workload": {"image": "x", "resources": {"limits": {"cpu": 1.5}}}},
            ".spec.workload.resources.limits.cpu",
            "1.5",
        ),
    ],
)
def test_a_broken_spec_says_where_what_and_how_to_fix(spec: Any, path: str, says: str) -> None:
    found = parse(service(spec))
    assert found.spec is None
    problem = found.problems[0]
    assert problem.path == path
    assert says in f"{problem.what} {problem.fix}"
    assert problem.what.endswith(".")
    assert problem.fix.endswith((".", "?"))


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ({"name": ""}, ".metadata.name"),
        ({"name": "Orders"}, ".metadata.name"),
        ({"name": "or.ders"}, ".metadata.name"),
        ({"name": "a" * 64}, ".metadata.name"),
        ({"name": 5}, ".metadata.name"),
        ({"namespace": "No"}, ".metadata.namespace"),
        ({"namespace": 5}, ".metadata.namespace"),
    ],
)
def test_broken_metadata_is_refused(metadata: dict[str, Any], path: str) -> None:
    found = parse(service(SOUND, **metadata))
    assert found.spec is None
    assert [p.path for p in found.problems] == [path]


def test_fields_beside_spec_are_refused() -> None:
    found = parse({**service(SOUND), "sepc": {}})
    assert found.problems[0].path == ".sepc"
    assert 'Did you mean "spec"?' in found.problems[0].fix


def test_an_unknown_kind_of_ours_is_named_and_others_are_left_alone() -> None:
    ours = parse({"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusServise", "metadata": {"name": "a"}})
    assert (ours.problems[0].reason, ours.problems[0].fix) == ("UnknownKind", "Did you mean NexusService?")
    theirs = parse({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a"}, "spec": 5})
    assert theirs.spec is None
    assert not theirs.problems


def test_an_unknown_version_names_the_known_one() -> None:
    found = parse({**service(SOUND), "apiVersion": "nexus.dev/v2"})
    assert found.problems[0].path == ".apiVersion"
    assert "nexus.dev/v1alpha1" in found.problems[0].fix


def test_several_problems_come_sorted() -> None:
    found = parse(service({"type": "x", "workload": {"port": 0}}))
    assert [p.path for p in found.problems] == [".spec.type", ".spec.workload.image", ".spec.workload.port"]


def test_a_text_gives_its_documents_and_its_faults() -> None:
    text = "kind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n---\n5\n--- \n{"
    resources, problems = parse_text(text, "shop.yaml")
    assert [str(r.ref) for r in resources] == ["Namespace a"]
    assert [p.reason for p in problems] == ["InvalidManifest", "InvalidYaml"]
    assert "line 8" in problems[1].what
    assert problems[0].where == ObjectRef("File", "", "shop.yaml")


def test_dates_are_strings_as_for_the_api_server() -> None:
    (found,), _ = parse_text(
        "apiVersion: nexus.dev/v1alpha1\nkind: NexusService\nmetadata: {name: a, creationTimestamp: 2026-01-01T00:00:00Z}\n"
        "spec: {workload: {image: 2026-01-01}}",
        "x",
    )
    assert found.created_at == "2026-01-01T00:00:00Z"
    assert found.spec is not None


def test_yaml_tags_do_not_run_code() -> None:
    resources, problems = parse_text("!!python/object/apply:os.system ['true']", "x")
    assert not resources
    assert problems[0].reason == "InvalidYaml"


def test_a_few_aliases_do_not_cost_what_they_stand_for() -> None:
    """A "billion laughs": 10 lines that mean ten thousand million texts."""
    lines = ["apiVersion: nexus.dev/v1alpha1", "kind: NexusService", "metadata: {name: a}", "spec:", "  a0: &a0 [x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    resources, problems = parse_text("\n".join(lines), "bomb.yaml")
    assert not resources
    assert [p.reason for p in problems] == ["InvalidYaml"]
    assert "aliases" in problems[0].what


def test_aliases_and_merge_keys_of_sane_size_are_read() -> None:
    text = "kind: ConfigMap\nmetadata: {name: a}\nbase: &base {x: 1, y: [1, 2]}\nmore: {<<: *base, x: 2}\nlist: [*base, *base]\n"
    resources, problems = parse_text(text, "a.yaml")
    assert problems == ()
    assert resources[0].raw["more"] == {"x": 2, "y": [1, 2]}


def test_a_key_written_twice_is_refused_as_kubectl_does() -> None:
    text = "kind: NexusService\nspec:\n  type: http\n  expose: {path: /a}\n  expose: {path: /b}\n"
    resources, problems = parse_text(text, "a.yaml")
    assert not resources
    assert 'line 5, column 3: the key "expose" is there twice' in problems[0].what


def test_a_name_that_is_no_name_at_all_is_told_the_characters_it_may_have() -> None:
    manifest = {"apiVersion": "nexus.dev/v1alpha1", "kind": "NexusService", "metadata": {"name": "UP_per"}, "spec": {}}
    assert "lower-case" in parse(manifest).problems[0].fix
