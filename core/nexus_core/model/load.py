"""Manifests to `Resource`s: total, never raises. What is wrong becomes a `Problem` with the path as users write it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pydantic
import yaml
from yaml.composer import Composer

from nexus_core.model import errors, kinds, kubernetes
from nexus_core.model.base import Model
from nexus_core.model.kinds import KINDS, Kind
from nexus_core.model.resources import Resource
from nexus_core.problems import ObjectRef, Problem, sort_problems

MAX_MANIFEST_BYTES = 1_500_000
"""What etcd takes at most; a larger one cannot come from a cluster."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def parse(doc: Mapping[str, Any]) -> Resource:
    """Return the resource a manifest describes. Never raises; a broken manifest has `spec=None` and problems.

    A namespaced object without a namespace is in `default`.
    """
    group, version, kind_name = _type_of(doc)
    kind = KINDS.get((group, kind_name))
    ref = _ref_of(doc, kind, kind_name)
    metadata = doc.get("metadata") if isinstance(doc, Mapping) else None
    metadata = metadata if isinstance(metadata, Mapping) else {}
    spec: Model | None = None
    problems: list[Problem] = []
    if kind is None:
        if group == kinds.GROUP:
            problems.append(_unknown_kind(ref, kind_name))
    elif version not in kind.versions:
        what = f'apiVersion "{doc.get("apiVersion")}" of {kind.kind} is not known.'
        fix = f'Write "{kind.group}/{kind.versions[0]}".' if kind.group else f'Write "{kind.versions[0]}".'
        problems.append(Problem(ref, ".apiVersion", "InvalidSpec", what, fix))
    else:
        problems.extend(_metadata_problems(ref, kind, metadata, doc))
        if not problems:
            spec, found = _spec_of(ref, kind, doc)
            problems.extend(found)
    generation = metadata.get("generation")
    created = metadata.get("creationTimestamp")
    return Resource(
        ref=ref,
        generation=generation if isinstance(generation, int) and not isinstance(generation, bool) else 0,
        created_at=created if isinstance(created, str) else "",
        labels=_strings(metadata.get("labels")),
        annotations=_strings(metadata.get("annotations")),
        spec=spec,
        problems=sort_problems(problems),
        raw=doc if isinstance(doc, Mapping) else {},
        group=group,
    )


def parse_text(text: str, origin: str) -> tuple[tuple[Resource, ...], tuple[Problem, ...]]:
    """Return the resources of a YAML text in its order, and what is wrong with the text itself.

    origin: where the text is from, for messages (a file's path). Documents before a YAML error are still returned.
    A `kind: List` is unfolded. Problems of a resource are in the resource.
    """
    resources, problems, exact = _parse_text(text, origin, _FastLoader)
    if not exact:
        # libyaml reads ten times as fast and says less about what it cannot read.
        resources, problems, _ = _parse_text(text, origin, _Loader)
    return tuple(resources), sort_problems(problems)


def _parse_text(text: str, origin: str, loader: type[Any]) -> tuple[list[Resource], list[Problem], bool]:
    """Return the resources, what is wrong with the text, and whether the loader read all of it."""
    resources: list[Resource] = []
    problems: list[Problem] = []
    where = ObjectRef("File", "", origin)
    exact = True
    try:
        for number, doc in enumerate(yaml.load_all(text, Loader=loader), start=1):
            for manifest in _unfold(doc):
                if isinstance(manifest, Mapping):
                    resources.append(parse(manifest))
                else:
                    what = f"Document {number} of {origin} is {_kind_of_value(manifest)}, not a manifest."
                    fix = "Write apiVersion, kind, metadata and spec, or remove it."
                    problems.append(Problem(where, ".", "InvalidManifest", what, fix))
    except yaml.YAMLError as error:
        exact = False
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "an unknown line"
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        what = f"{origin} is not valid YAML at {line}: {said}."
        problems.append(Problem(where, ".", "InvalidYaml", what, "Correct the text there; often an indent or a quote."))
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        exact = False
        what = f"{origin} cannot be read: {type(error).__name__}: {str(error)[:200]}."
        problems.append(Problem(where, ".", "InvalidYaml", what, "Write it as plain YAML that JSON could hold too."))
    return resources, problems, exact


class _JsonValues:
    """Reads YAML as the API server does: into JSON values. So `2024-01-01` is a string, no date. For one of PyYAML's loaders."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the attribute's type is PyYAML's
        first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_document(self, node: yaml.Node) -> Any:
        """Refuse, as kubectl does, a key that is written twice, and aliases that make little text mean very much."""
        _measure(node, {})
        return super().construct_document(node)  # type: ignore[misc]


class _Loader(_JsonValues, yaml.SafeLoader):
    """The parser in Python."""


_FastLoader: type[Any] = _Loader
if yaml.__with_libyaml__:

    class _InC(_JsonValues, Composer, yaml.CSafeLoader):
        """Scanner and parser in C. Not its composer: that one follows nested text on the C stack until the process dies, where
        Python's ends with a RecursionError."""

        def __init__(self, stream: str) -> None:
            yaml.CSafeLoader.__init__(self, stream)
            Composer.__init__(self)

    _FastLoader = _InC


def _measure(node: yaml.Node, known: dict[int, int]) -> int:
    """Return about how many bytes the node is with its aliases written out. Raises ConstructorError.

    known: sizes by `id` of what was met before, so that a text of a few aliases of aliases ("billion laughs") costs its
    own length to measure and not what it stands for. A node inside itself counts nothing here: JSON refuses it later.
    """
    if (before := known.get(id(node))) is not None:
        return before
    known[id(node)] = 0
    size = 2
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in keys:
                    said = f'the key "{key.value[:80]}" is there twice'
                    raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
                keys.add((key.tag, key.value))
            size += _measure(key, known) + _measure(value, known)
    else:
        size += sum(_measure(value, known) for value in node.value)
    # What has no aliases is as long as its text, and a text may be a List of many objects.
    written = node.end_mark.index - node.start_mark.index
    if size > MAX_MANIFEST_BYTES and size > 4 * written:
        said = f"with its aliases written out this is {size} bytes, and {MAX_MANIFEST_BYTES} is the most"
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    known[id(node)] = size
    return size


def _unfold(doc: Any) -> list[Any]:
    if doc is None:
        return []
    if isinstance(doc, Mapping) and doc.get("kind") == "List" and isinstance(doc.get("items"), list):
        return list(doc["items"])
    return [doc]


def _type_of(doc: Any) -> tuple[str, str, str]:
    if not isinstance(doc, Mapping):
        return "", "", ""
    api_version, kind = doc.get("apiVersion"), doc.get("kind")
    group, _, version = api_version.rpartition("/") if isinstance(api_version, str) else ("", "", "")
    return group, version, kind if isinstance(kind, str) else ""


def _ref_of(doc: Any, kind: Kind | None, kind_name: str) -> ObjectRef:
    metadata = doc.get("metadata") if isinstance(doc, Mapping) else None
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    name = name if isinstance(name, str) else ""
    namespace = namespace if isinstance(namespace, str) else ""
    if kind is not None and kind.scope == "Cluster":
        namespace = ""
    elif kind is not None and not namespace:
        namespace = "default"
    return ObjectRef(kind_name, namespace, name)


def _unknown_kind(ref: ObjectRef, kind_name: str) -> Problem:
    known = [k.kind for k in KINDS.values() if k.ours]
    near = difflib.get_close_matches(kind_name, known, n=1)
    fix = f"Did you mean {near[0]}?" if near else f"Write one of: {', '.join(sorted(known))}."
    return Problem(ref, ".kind", "UnknownKind", f'"{kind_name}" is not a kind of {kinds.GROUP}.', fix)


def _metadata_problems(
    ref: ObjectRef, kind: Kind, metadata: Mapping[str, Any], doc: Mapping[str, Any]
) -> list[Problem]:
    if not ref.name:
        what, fix = "The object has no name.", "Set metadata.name."
        return [Problem(ref, ".metadata.name", "InvalidSpec", what, fix)]
    # Before the rules: their remedies take for granted that it is a name.
    if len(ref.name) > 253 or not _SUBDOMAIN.fullmatch(ref.name):
        what = f'"{ref.name[:80]}" is no object name.'
        fix = "Use lower-case letters, digits, '-' and '.', and begin and end with a letter or digit."
        found = [Problem(ref, ".metadata.name", "InvalidSpec", what, fix)]
    else:
        broken = [rule for rule in kind.rules if not rule.holds(doc)]
        found = [Problem(ref, ".metadata.name", rule.reason, rule.what, rule.fix) for rule in broken]
    if ref.namespace and (len(ref.namespace) > 63 or not _LABEL.fullmatch(ref.namespace)):
        what = f'"{ref.namespace[:80]}" is no namespace.'
        fix = "Use lower-case letters, digits and '-', 63 characters at most."
        found.append(Problem(ref, ".metadata.namespace", "InvalidSpec", what, fix))
    if metadata.get("namespace") is not None and not isinstance(metadata.get("namespace"), str):
        what, fix = "metadata.namespace is not a string.", "Put the namespace in quotes."
        found.append(Problem(ref, ".metadata.namespace", "InvalidSpec", what, fix))
    return found


def _spec_of(ref: ObjectRef, kind: Kind, doc: Mapping[str, Any]) -> tuple[Model | None, list[Problem]]:
    """Validate `spec`, and for our kinds the manifest's other fields too."""
    if kind.ours:
        extra = sorted(str(key) for key in doc if key not in ("apiVersion", "kind", "metadata", "spec", "status"))
        if extra:
            return None, [errors.unknown_field(ref, (), key, ("spec", "metadata", "status"), "") for key in extra]
    value = (
        {key: doc[key] for key in doc if key not in ("apiVersion", "kind", "metadata") and doc[key] is not None}
        if kind.whole
        else doc.get("spec")
    )
    if value is None:
        if not kind.missing_spec:
            return None, [
                Problem(ref, ".spec", "InvalidSpec", "Required value.", f"Write the spec of the {kind.kind}.")
            ]
        value = {}
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        what = f"The spec holds something that JSON cannot: {str(error)[:200]}."
        return None, [Problem(ref, ".spec", "InvalidSpec", what, "Use strings, numbers, true, false, lists and maps.")]
    if len(text) > MAX_MANIFEST_BYTES:
        what = f"The spec is {len(text)} bytes of JSON."
        return None, [Problem(ref, ".spec", "InvalidSpec", what, f"Keep it below {MAX_MANIFEST_BYTES} bytes.")]
    try:
        spec = kind.spec.model_validate_json(text)
    except pydantic.ValidationError as error:
        found = errors.problems_of(ref, kind.spec, error)
        return None, [
            _hidden(problem) if kind.discreet else _at_root(problem) for problem in found
        ] if kind.whole else found
    unknown = errors.unread_fields(ref, spec)
    # What cannot be left out without changing what the object means, translation tells (`translate.unread`).
    return spec, unknown


def _at_root(problem: Problem) -> Problem:
    """The problem of a kind without a spec, with its true path."""
    return replace(problem, path=problem.path.removeprefix(".spec") or ".")


def _hidden(problem: Problem) -> Problem:
    """The problem of a kind without a spec, with its true path and without what was written there: it may be a secret."""
    problem = _at_root(problem)
    if problem.what.endswith(kubernetes.NOT_BASE64):
        return problem
    return replace(problem, what="This cannot be read.", fix="Write a map of strings there.")


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {k: v for k, v in sorted(value.items(), key=str) if isinstance(k, str) and isinstance(v, str)}


def _kind_of_value(value: Any) -> str:
    names = {str: "a text", list: "a list", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), f"a {type(value).__name__}")
