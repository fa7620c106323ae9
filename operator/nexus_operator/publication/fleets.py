"""Which gateway processes serve which Gateway, and how far a generation has come among them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from nexus_core.snapshot import Ack, Published

from nexus_operator.publication.acks import Liveness, gateway_of


@dataclass(frozen=True, slots=True)
class Replica:
    """A pod of a data plane. gateway: `<namespace>/<name>` of the Gateway it serves. ready: it takes traffic."""

    gateway: str
    ready: bool


class Fleet:
    """All gateway processes of one moment: those that acknowledge Snapshots, and pods that take traffic without doing so.

    A pod that is ready and has no ack has lost Consul: it serves what it has, so nothing newer is live everywhere.
    """

    def __init__(self, acks: Iterable[Ack], pods: Mapping[str, Replica], current: Published | None) -> None:
        """pods: by name. current: what is published."""
        self.acks = tuple(acks)
        self._pods = pods
        self._current = current
        self._by_gateway: dict[str, tuple[list[Ack], list[str]]] = {}
        self._everything: tuple[list[Ack], list[str]] = ([], [])
        self._unopened: dict[str, Mapping[str, str]] = {}
        self._known: dict[tuple[Collection[str] | None, int], Liveness] = {}
        heard = {gateway_of(ack.replica) for ack in self.acks}
        silent = {name: pod for name, pod in pods.items() if pod.ready and name not in heard}
        self._everything = (list(self.acks), list(silent))
        for_all: list[Ack] = []
        for ack in self.acks:
            pod = pods.get(gateway_of(ack.replica))
            gateway = ack.gateway or (pod.gateway if pod is not None else "")
            if gateway:
                self._by_gateway.setdefault(gateway, ([], []))[0].append(ack)
            else:
                for_all.append(ack)
        for name, pod in silent.items():
            self._by_gateway.setdefault(pod.gateway, ([], []))[1].append(name)
        self._for_all = for_all

    def acks_of(self, gateway: str) -> tuple[Ack, ...]:
        """Return the acks of the processes that serve a Gateway: its own, and those that serve all."""
        return (*self._by_gateway.get(gateway, ((), ()))[0], *self._for_all)

    def liveness(self, generation: int, gateways: frozenset[str] | None = None) -> Liveness:
        """Return how many processes serve `generation` or something newer, of all that are alive.

        gateways: those whose processes count; None for all. A replica that serves the very content that is published counts whatever
        generation it names: after Consul lost its data the same content is published under a new number.
        """
        found = self._known.get((gateways, generation))
        if found is None:
            found = self._known[gateways, generation] = self._count(generation, gateways)
        return found

    def unopened(self, gateway: str) -> Mapping[str, str]:
        """Return what is wrong with listeners that some process could not open, by `Listener.id`."""
        found = self._unopened.get(gateway)
        if found is None:
            acks = self.acks_of(gateway)[::-1]
            found = {name: sentence for ack in acks for name, sentence in ack.listeners.items()}
            self._unopened[gateway] = found
        return found

    def _count(self, generation: int, gateways: frozenset[str] | None) -> Liveness:
        if gateways is None:
            acks, silent = self._everything
        else:
            mine = [self._by_gateway[name] for name in sorted(gateways) if name in self._by_gateway]
            acks = [*(ack for each in mine for ack in each[0]), *self._for_all]
            silent = [name for each in mine for name in each[1]]
        serving: dict[str, bool] = dict.fromkeys(silent, False)
        for ack in acks:
            current = self._current
            there = current is not None and (
                ack.digest == current.digest or generation <= ack.generation <= current.generation
            )
            gateway = gateway_of(ack.replica)
            serving[gateway] = serving.get(gateway, True) and there
        return Liveness(sum(serving.values()), len(serving), generation)
