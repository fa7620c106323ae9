"""Who holds a host name: the index answers as looking at every name would."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from nexus_core.problems import ObjectRef
from nexus_core.translate import hostnames
from nexus_core.translate.route_conflicts import Holders

NAMES = ("", "*.com", "*.a.com", "*.b.a.com", "a.com", "b.a.com", "c.b.a.com", "xa.com", "*.xa.com", "com")
names = st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map(lambda found: () if "" in found else tuple(found))


@given(st.lists(names, max_size=5), names)
def test_a_holder_is_found_exactly_when_two_host_names_meet(
    held: list[tuple[str, ...]], asked: tuple[str, ...]
) -> None:
    holders = Holders()
    for number, hosts in enumerate(held):
        holders.add(ObjectRef("GRPCRoute", "shop", str(number)), hosts)
    meet = any(
        hostnames.intersect(one, other) is not None
        for hosts in held
        for one, other in product(hosts or ("",), asked or ("",))
    )
    assert (holders.find(asked) is not None) == meet
