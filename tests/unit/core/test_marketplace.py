"""Index, choice, signed bytes, artefact."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.marketplace import Index, IndexInvalid, parse_index, signed_bytes
from nexus_core.marketplace.artefact import build_zip
from nexus_core.snapshot import Release

RELEASE: dict[str, Any] = {
    "name": "api-key",
    "version": "1.0.0",
    "api": ">=1,<2",
    "package": "demo",
    "entry_point": "demo.plugin:ApiKey",
    "sha256": "0" * 64,
    "url": "bundled:",
    "config_schema": {"type": "object", "b": 1, "a": 2},
    "publisher": "nexus",
    "signature": "c2ln",
}


def index(*releases: dict[str, Any]) -> Index:
    return parse_index(json.dumps({"version": 1, "releases": [{**RELEASE, **r} for r in releases]}).encode(), "test")


def test_an_index_is_read() -> None:
    found = index({}, {"version": "1.10"}, {"version": "1.9"}, {"name": "other"})
    assert [r.version for r in found.by_name["api-key"]] == ["1.10", "1.9", "1.0.0"]
    assert list(found.by_name) == ["api-key", "other"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Api Key"}, "kebab-case"),
        ({"version": "one"}, "not PEP 440"),
        ({"api": "~1"}, "no version range"),
        ({"package": "../x"}, "no import package"),
        ({"entry_point": "os:system"}, "not module:Class inside demo"),
        ({"entry_point": "demo"}, "not module:Class inside demo"),
        ({"sha256": "A" * 64}, "64 hex digits"),
        ({"failure_policy": "sometimes"}, "cannot be read"),
        ({"name": 5}, "cannot be read"),
        ({"extra": 1}, "unknown fields: extra"),
    ],
)
def test_a_broken_release_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(IndexInvalid, match=r"releases\[1\] of the index test") as caught:
        index({}, {"version": "2.0", **change})
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"version": 2, "releases": []}', "is of version 2"),
        (b'{"version": 1}', "cannot be read"),
    ],
)
def test_what_is_no_index_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(IndexInvalid, match=says):
        parse_index(data, "test")


def test_a_release_listed_twice_is_refused() -> None:
    with pytest.raises(IndexInvalid, match="twice"):
        index({"version": "1.0"}, {"version": "1.0.0"})


@given(st.binary(max_size=100))
def test_no_bytes_make_the_reader_raise_anything_else(data: bytes) -> None:
    try:
        parse_index(data, "test")
    except IndexInvalid as error:
        said = str(error)
    else:
        said = "The index test"
    assert "test" in said


def test_signed_bytes_are_canonical_and_leave_out_url_and_signature() -> None:
    release = msgspec.convert(RELEASE, Release)
    moved = msgspec.structs.replace(release, url="https://mirror.example/x.zip", signature="other")
    assert signed_bytes(release) == signed_bytes(moved)
    text = signed_bytes(release).decode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert "failure_policy" in text  # defaults are signed too
    assert "c2ln" not in text


@pytest.mark.parametrize("field", sorted(set(Release.__struct_fields__) - {"url", "signature", "config_schema"}))
def test_every_other_field_is_signed(field: str) -> None:
    release = msgspec.convert(RELEASE, Release)
    value = "closed" if field == "failure_policy" else "changed"
    assert signed_bytes(msgspec.structs.replace(release, **{field: value})) != signed_bytes(release)


FILES = {
    "demo/plugin.py": b"x = 1\n",
    "demo/__init__.py": b"",
    "demo/plugin.yaml": b"name: demo\n",
    "demo/__pycache__/plugin.cpython-311.pyc": b"\0",
    "demo/__pycache__/trap.py": b"",
    "demo/notes.txt": b"no",
    "demo/py.typed": b"",
}


def test_an_artefact_is_the_same_bytes_everywhere() -> None:
    data = build_zip(FILES)
    assert data == build_zip(dict(reversed(FILES.items())))
    # The digest is part of signed releases: a change here breaks every signature there is.
    assert hashlib.sha256(data).hexdigest() == "99a08517c2ea68ee174db6c6ce08a72aca3989f5ed4cceb707d6401b21978100"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["demo/__init__.py", "demo/plugin.py", "demo/plugin.yaml"]
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("path", ["/etc/x.py", "../x.py", "demo/../../x.py", "demo//x.py", "demo\\x.py"])
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="below the package's folder"):
        build_zip({path: b""})
