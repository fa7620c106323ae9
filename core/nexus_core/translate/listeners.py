"""Listeners of Gateways and ListenerSets: on their way (`Draft`), and as routes meet them (`OpenListener`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus_core.model import gateway_api
from nexus_core.problems import ObjectRef, Problem
from nexus_core.snapshot import Listener
from nexus_core.translate import unread
from nexus_core.translate.listener_conflicts import Claim
from nexus_core.translate.translation import ListenerStatus, Remark, Verdict
from nexus_core.translate.worlds import World

ACCEPTED = Verdict(True, "Accepted")
RESOLVED = Verdict(True, "ResolvedRefs")
NO_CONFLICTS = Verdict(True, "NoConflicts")


@dataclass(frozen=True)
class OpenListener:
    """A listener that takes routes. owner: the Gateway or ListenerSet that declares it. name: its section name there.
    kinds: of routes it takes, sorted. spec: None for the default and for a quarantined owner's.

    closed: why it is not in the Snapshot, in sentences; empty when it is. Routes attach to a closed one all the same, and wait for it
    (Gateway API, ListenerStatus.attachedRoutes). known_routes: ids of routes a quarantined listener had; they stay.
    """

    listener: Listener
    gateway: ObjectRef
    name: str
    owner: ObjectRef
    kinds: tuple[str, ...]
    spec: gateway_api.ListenerSpec | None = None
    is_default: bool = False
    closed: str = ""
    known_routes: frozenset[str] = frozenset()

    @property
    def serves(self) -> bool:
        """Whether it is in the Snapshot."""
        return not self.closed

    def allows(self, world: World, namespace: str, route: str, kind: str) -> bool:
        """Whether routes of a kind and a namespace may attach. kind: of the Gateway API, or NexusService for its `expose`."""
        if kind == "NexusService":
            if self.listener.protocol not in ("HTTP", "HTTPS"):
                return False
        elif kind not in self.kinds:
            return False
        if self.is_default or route in self.known_routes:
            return True
        allowed = self.spec.allowed_routes.namespaces if self.spec is not None else None
        return selects(world, allowed, self.owner.namespace, namespace)


def selects(world: World, allowed: gateway_api.AllowedNamespaces | None, own: str, namespace: str) -> bool:
    """Whether a choice of namespaces, made in namespace `own`, means `namespace`. None: only its own."""
    if allowed is None or allowed.from_ == "Same":
        return namespace == own
    if allowed.from_ == "All":
        return True
    if allowed.from_ == "Selector" and allowed.selector is not None:
        return allowed.selector.selects(world.labels_of_namespace(namespace))
    return False


@dataclass
class Draft:
    """A listener on its way. listener: None when routes could not name it. refusal: why it is not accepted. conflict: with which other it
    cannot be.
    unresolved: what it refers to in vain, the certificates first. missing: it cannot serve for want of them. ignored: fields left out.
    overlap: a host name of another listener of its port that has clients in common with it.
    """

    owner: ObjectRef
    gateway: ObjectRef
    path: str
    id: str
    name: str
    listener: Listener | None
    spec: gateway_api.ListenerSpec | None = None
    kinds: tuple[str, ...] = ()
    refusal: Problem | None = None
    conflict: Problem | None = None
    unresolved: list[Problem] = field(default_factory=list)
    missing: bool = False
    ignored: list[Problem] = field(default_factory=list)
    overlap: str | None = None
    known_routes: frozenset[str] = frozenset()

    @property
    def claim(self) -> Claim | None:
        """What it asks for; None for one that is refused."""
        # Of one whose clients cannot be told apart all is known but whom to believe: it is not accepted, and has its port.
        if self.listener is None or (self.refusal is not None and self.refusal.reason != "NoValidCACertificate"):
            return None
        it = self.listener
        return Claim(self.owner, self.path, self.name, it.port, it.protocol, it.hostname)

    @property
    def serves(self) -> bool:
        """Whether it is in the Snapshot."""
        return self.listener is not None and self.refusal is None and self.conflict is None and not self.missing

    def _closed(self) -> str:
        """Return why it is not in the Snapshot, in sentences."""
        reasons = [p for p in (self.refusal, self.conflict) if p is not None]
        if not reasons and self.missing:
            reasons = self.unresolved
            if not reasons:  # the last good version of a broken owner's
                return "None of its certificates is there any more. Mend the object that declares it."
        return " ".join(dict.fromkeys(f"{p.what} {p.fix}" for p in reasons))

    def open(self) -> OpenListener | None:
        """Return what routes attach to."""
        if self.listener is None:
            return None
        return OpenListener(
            self.listener,
            self.gateway,
            self.name,
            self.owner,
            self.kinds,
            self.spec,
            closed=self._closed(),
            known_routes=self.known_routes,
        )

    def problems(self) -> list[Problem]:
        """Return everything that is wrong with it."""
        return [p for p in (self.refusal, self.conflict, *self.unresolved, *self.ignored) if p is not None]

    def status(self) -> ListenerStatus:
        """Return its status, without attached routes yet."""
        accepted, conflicted, resolved = ACCEPTED, NO_CONFLICTS, RESOLVED
        if self.conflict is not None:
            # The Gateway API gives both conditions the reason of the conflict.
            accepted = conflicted = _verdict(self.conflict)
        if self.refusal is not None:
            accepted = _verdict(self.refusal)
        if self.unresolved:
            first = self.unresolved[0]
            message = "\n".join(dict.fromkeys(f"{p.what} {p.fix}" for p in self.unresolved))
            resolved = Verdict(False, first.reason, message)
        return ListenerStatus(
            self.name,
            self.id,
            accepted,
            resolved,
            conflicted,
            supported_kinds=self.kinds,
            remarks=self._remarks(),
            serves=self.serves,
        )

    def _remarks(self) -> tuple[Remark, ...]:
        found = unread.remark_of(self.ignored)
        if self.overlap is None or not self.serves:
            return found
        other = f'"{self.overlap}"' if self.overlap else "any host name"
        message = f"A listener of this port is for {other}, which has clients in common with this one."
        if self.listener is not None and self.listener.protocol == "HTTPS":
            message += " A connection that a client keeps and uses for both is answered 421 where it met the other's certificate."
        return (Remark("OverlappingTLSConfig", "OverlappingHostnames", message), *found)


def _verdict(problem: Problem) -> Verdict:
    return Verdict(False, problem.reason, f"{problem.what} {problem.fix}")
