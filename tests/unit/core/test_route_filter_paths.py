"""Paths that a rewrite or redirect puts into a request line or a Location header."""

from __future__ import annotations

import pytest
from nexus_core.model import gateway_api
from nexus_core.problems import ObjectRef, Problem
from nexus_core.translate.route_filters import FilterBuilder

BAD = ["a", "/a b", "/a\r\nset-cookie: x", "/a?b=c", "/a#b", "/é", "http://evil/"]


def built(path: str, kind: str, filter_type: str) -> tuple[int, list[str]]:
    problems: list[Problem] = []
    field = "replaceFullPath" if kind == "ReplaceFullPath" else "replacePrefixMatch"
    setting = "urlRewrite" if filter_type == "URLRewrite" else "requestRedirect"
    item = gateway_api.RouteFilter.model_validate({"type": filter_type, setting: {"path": {"type": kind, field: path}}})
    ref = ObjectRef("HTTPRoute", "shop", "r")
    found = FilterBuilder(ref, problems, all_prefixes=True, resolve=lambda ref, path: "").build([item], ".filters")
    assert all(problem.path == f".filters[0].{setting}.path.{field}" for problem in problems)
    return len(found), [problem.reason for problem in problems]


@pytest.mark.parametrize("filter_type", ["URLRewrite", "RequestRedirect"])
@pytest.mark.parametrize("kind", ["ReplaceFullPath", "ReplacePrefixMatch"])
def test_what_is_no_path_is_refused(kind: str, filter_type: str) -> None:
    for path in BAD:
        assert built(path, kind, filter_type)[1] == ["InvalidSpec"], path
    for path in ("", "/", "/a/b;v=1/%20~x{y}"):
        assert built(path, kind, filter_type) == (1, []), path
