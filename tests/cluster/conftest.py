"""Fixtures of the cluster tests. A machine that cannot run a cluster fails them, with a list of what it lacks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `import nexus_testbed` from this folder; it is no part of the product

from nexus_testbed import Cluster
from shop import Shop


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with Consul, Jaeger and the Gateway API's CRDs, shared by all tests of the session.

    Tests use a namespace of their own and put back what they break.
    """
    with Cluster(components=("consul", "jaeger")) as running:
        running.install_gateway_api()
        yield running


@pytest.fixture(scope="session")
def shop(cluster: Cluster) -> Shop:
    """Nexus installed by its chart, and `examples/shop` applied and Ready."""
    installed = Shop(cluster)
    installed.install()
    return installed
