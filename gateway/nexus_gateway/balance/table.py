"""Every balancing algorithm the gateway knows, written out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from nexus_gateway.balance.candidates import Balancer
from nexus_gateway.balance.least_request import LeastRequest
from nexus_gateway.balance.round_robin import RoundRobin

BALANCERS: Mapping[str, Callable[[random.Random], Balancer]] = {
    "least-request": LeastRequest,
    "round-robin": RoundRobin,
}
"""`Balancing.algorithm` of the Snapshot → the balancer."""
