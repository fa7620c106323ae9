"""Every balancing algorithm the gateway knows, written out."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from nexus_gateway.balance.candidates import Balancer
from nexus_gateway.balance.least_request import LeastRequest
from nexus_gateway.balance.maglev import Maglev
from nexus_gateway.balance.peak_ewma import PeakEwma
from nexus_gateway.balance.random_choice import RandomChoice
from nexus_gateway.balance.ring_hash import RingHash
from nexus_gateway.balance.round_robin import RoundRobin

BALANCERS: Mapping[str, Callable[[random.Random], Balancer]] = {
    "least-request": LeastRequest,
    "maglev": Maglev,
    "peak-ewma": PeakEwma,
    "random": RandomChoice,
    "ring-hash": RingHash,
    "round-robin": RoundRobin,
}
"""`Balancing.algorithm` of the Snapshot → the balancer."""
