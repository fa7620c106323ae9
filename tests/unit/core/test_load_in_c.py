"""The two YAML parsers of `model.load` are one to who uses it: the same values, and no text that ends the process."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nexus_core.model import load

ROOT = Path(__file__).parents[3]
TEXTS = sorted((ROOT / "tests/golden/core/translate").glob("*.in.yaml")) + sorted((ROOT / "examples").rglob("*.yaml"))

pytestmark = pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")


def is_readable(path: Path) -> bool:
    try:
        documents(path.read_text(), load._Loader)
    except yaml.YAMLError:
        return False
    return True


def documents(text: str, loader: type) -> list[object]:
    return list(yaml.load_all(text, Loader=loader))


def test_there_are_texts() -> None:
    assert len(TEXTS) > 50


@pytest.mark.parametrize("path", [path for path in TEXTS if is_readable(path)], ids=lambda path: path.name)
def test_both_parsers_read_the_same(path: Path) -> None:
    text = path.read_text()
    assert load._FastLoader is not load._Loader
    assert documents(text, load._FastLoader) == documents(text, load._Loader)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 50_000, "? " * 50_000])
def test_nested_without_end_is_a_problem_and_not_the_end_of_the_process(text: str) -> None:
    """libyaml's composer follows it on the C stack."""
    resources, problems = load.parse_text(text, "deep.yaml")
    assert resources == ()
    assert [each.reason for each in problems] == ["InvalidYaml"]


def test_what_is_wrong_is_told_by_the_parser_in_python() -> None:
    text = "kind: [\n"
    with pytest.raises(yaml.YAMLError) as said:
        documents(text, load._Loader)
    ((problem,),) = load.parse_text(text, "broken.yaml")[1:]
    assert str(getattr(said.value, "problem", "")) in problem.what
