"""Answers signed debug headers: what really happened to an exchange, on its response.

For exchanges without the header nothing here is called. An exchange that asks gets its answer with whatever response it
gets, the gateway's own refusals too.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Any

from nexus_core.match.descriptions import listeners_of
from nexus_core.match.explain import find_near

from nexus_gateway.edge import requests
from nexus_gateway.telemetry import debugging
from nexus_gateway.telemetry.redactions import is_secret

if TYPE_CHECKING:
    from nexus_gateway.edge.ending import Ending

_ASKS = debugging.ASKS.encode()


class Debugging:
    """key: shared with those who may ask, empty for nobody."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def asked(self, exchange: Ending) -> bool:
        """Return whether the exchange's client may see what happens to it. For exchanges that bring the header."""
        token = (exchange.block.aside or {}).get(_ASKS)
        if token is None or not self._key:
            return False
        line = exchange.line
        host = requests.authority_of(line, exchange.block)[1]
        return debugging.verify(token, self._key, line.method, host, line.path, time()) is not None

    def lines(self, exchange: Ending, status: int) -> bytes:
        """Return the response lines of an exchange that `asked` was true for. status: of the response they go out with."""
        token = (exchange.block.aside or {}).get(_ASKS, b"")
        nonce = debugging.read_nonce(token)
        answer = debugging.build(self._facts(exchange, status, monotonic()))
        signature = debugging.sign_answer(self._key, nonce, answer)
        return f"{debugging.ANSWERS}: {answer}\r\n{debugging.SIGNS}: {signature}\r\n".encode()

    def _facts(self, exchange: Ending, status: int, now: float) -> dict[str, Any]:
        done = exchange.finished(now)
        line, block, entry, runtime = exchange.line, exchange.block, exchange.entry, exchange.runtime
        host = requests.authority_of(line, block)[1]
        began = exchange.started_at
        pool = exchange.pool
        near = find_near(
            runtime.router, entry, line.method, host, line.path, block, query=line.query, limit=3, secret=is_secret
        )
        facts: dict[str, Any] = {
            "request": exchange.request_id.decode("latin-1"),
            "generation": runtime.published.generation,
            "status": status,
            "reason": done.reason,
            "listeners": [
                each["id"] for each in listeners_of(runtime.published.snapshot.listeners, runtime.router, host, entry)
            ],
            "route": done.route,
            "rule": done.rule,
            "plugins": [
                {
                    "id": each.plugin,
                    "hook": each.hook,
                    "at_ms": _ms(each.started_at - began),
                    "ms": _ms(each.duration_s),
                }
                for each in done.hooks
            ],
            "upstream": done.upstream,
            "attempts": [
                {
                    "endpoint": each.endpoint,
                    "at_ms": _ms(each.started_at - began),
                    "ms": _ms(each.ended_at - each.started_at),
                    "status": each.status,
                    "outcome": each.outcome,
                    "circuit": each.breaker,
                    "hedge": each.hedge,
                }
                for each in done.tried
            ],
            "retries": sum(1 for each in done.tried[1:] if not each.hedge),
            "hedges": sum(1 for each in done.tried if each.hedge),
            "others": [{"route": each.route, "rule": each.rule, "why": each.why} for each in near],
            "ms": _ms(now - began),
        }
        if pool is not None:
            facts["circuits"] = {
                state.authority: state.breaker.state for state in pool.endpoints if state.breaker.state != "closed"
            }
            if pool.service_breaker is not None:
                facts["service_circuit"] = pool.service_breaker.state
        return facts


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
