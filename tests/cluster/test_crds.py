"""The checked-in examples against a real API server: the right ones are taken, the wrong ones refused with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_testbed.cluster import CommandError
from shop import Shop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

INFRA = "infra"
"""Where some examples are, beside `shop` and `default`."""
EXAMPLES = Path(__file__).parent.parent.parent / "crds" / "examples"


@pytest.fixture(autouse=True, scope="module")
def namespaces(shop: Shop) -> Iterator[None]:
    shop.cluster.kubectl("create", "namespace", INFRA)
    yield
    shop.cluster.kubectl("delete", "namespace", INFRA, "--wait=false")


@pytest.mark.parametrize("path", sorted((EXAMPLES / "valid").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_valid_example_is_taken(shop: Shop, path: Path) -> None:
    printed = shop.cluster.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert "(server dry run)" in printed


@pytest.mark.parametrize("path", sorted((EXAMPLES / "invalid").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_invalid_example_is_refused_with_the_remedy(shop: Shop, path: Path) -> None:
    """The first line of each file is a comment with the sentence that a person has to read."""
    expected = path.read_text().splitlines()[0].removeprefix("#").strip()
    with pytest.raises(CommandError) as refused:
        shop.cluster.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert expected in str(refused.value)
