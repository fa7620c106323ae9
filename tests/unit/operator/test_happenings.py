"""Events of plugins: told from what a status shows and what it is about to show, once."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_operator.edge.eventwriter import EventWriter
from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError
from nexus_operator.status.happenings import happenings_of
from nexus_operator.status.writes import StatusWrite
from nexus_operator.world.kinds import Kind


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason or kind, "message": message, "lastTransitionTime": "t"}


def status(
    state: str = "Running", version: str | None = "1.0.0", *conditions: dict[str, str], **more: Any
) -> dict[str, Any]:
    return {"plugin": "greet", "state": state, "version": version, "conditions": list(conditions), **more}


def write(held: dict[str, Any] | None, wanted: dict[str, Any]) -> StatusWrite:
    obj = {
        "apiVersion": "nexus.dev/v1alpha1", "kind": "NexusPlugin",
        "metadata": {"name": "greet", "namespace": "shop", "uid": "u", "resourceVersion": "1"}, "status": held or {},
    }  # fmt: skip
    return StatusWrite("NexusPlugin", obj, wanted)


ROLLED_BACK = condition("Updated", "False", "PluginRolledBack", "1.2.0 was tried and taken back.")
CANARY = condition("Updated", "Unknown", "Canary", "1.1.0 is tried on 10 % of the requests.")
WAITING = condition("Updated", "False", "PluginDigestMismatch", "1.1.0 cannot be tried: the file has another digest.")
TAKEN_BACK = condition("Updated", "False", "PluginDigestMismatch", "1.1.0 was tried and taken back.")
INSTALLED = "greet 1.0.0 was installed: it runs everywhere it is wanted."
PASSED = {"version": "1.1.0", "reason": "PythonIncompatible", "message": "It needs Python >=3.99."}
MISFIT = condition("Updated", "False", "PythonIncompatible", "1.1.0 cannot run here, and 1.0.0 is taken instead.")
DISABLED = condition("Programmed", "False", "PluginDisabled", "60 % of its 40 calls failed.")
FAILED = condition("Programmed", "False", "PluginLoadFailed", "It cannot be imported.")
REFUSED = condition("Accepted", "False", "PluginNotPermitted", "It asks for os.")


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        (None, status("Pending"), []),
        (status("Pending"), status(acknowledged="1.0.0"), [("Normal", "PluginInstalled", INSTALLED)]),
        (status(acknowledged="1.0.0"), status(acknowledged="1.0.0"), []),
        # A gateway that is new has not loaded it yet: nothing was installed when it has.
        (status("Pending", acknowledged="1.0.0"), status(acknowledged="1.0.0"), []),
        # By the status of a former release of the operator, it ran already.
        (status("Running", "1.0.0", condition("Programmed")), status(acknowledged="1.0.0"), []),
        (status(), status(), []),
        (status(acknowledged="1.0.0"), status("Pending", "1.1.0", acknowledged="1.0.0"), []),
        (
            status("Pending", "1.1.0", acknowledged="1.0.0"), status("Running", "1.1.0", acknowledged="1.1.0"),
            [("Normal", "PluginUpdated", "greet 1.1.0 took over from 1.0.0 everywhere.")],
        ),
        (
            status(), status("Canary 1.1.0", "1.0.0", CANARY, candidate="1.1.0"),
            [("Normal", "CanaryStarted", "greet: 1.1.0 is tried on 10 % of the requests.")],
        ),
        (status("Canary 1.1.0", "1.0.0", CANARY, candidate="1.1.0"), status("Canary 1.1.0", "1.0.0", CANARY, candidate="1.1.0"), []),
        (
            status(), status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"),
            [("Warning", "CanaryWaiting", f"PluginDigestMismatch: {WAITING['message']}")],
        ),
        (
            status("Canary 1.1.0", "1.0.0", CANARY, candidate="1.1.0"), status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"),
            [("Warning", "CanaryWaiting", f"PluginDigestMismatch: {WAITING['message']}")],
        ),
        (
            status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"),
            status("Canary 1.1.0", "1.0.0", WAITING | {"message": "another gateway's words"}, candidate="1.1.0"), [],
        ),
        (
            status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"), status("Canary 1.1.0", "1.0.0", CANARY, candidate="1.1.0"),
            [("Normal", "CanaryStarted", "greet: 1.1.0 is tried on 10 % of the requests.")],
        ),
        (
            status("RolledBack", "1.0.0", ROLLED_BACK), status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"),
            [("Warning", "CanaryWaiting", f"PluginDigestMismatch: {WAITING['message']}")],
        ),
        (
            status("Canary 1.1.0", "1.0.0", WAITING, candidate="1.1.0"), status("RolledBack", "1.0.0", TAKEN_BACK),
            [("Warning", "PluginRolledBack", "1.1.0 was tried and taken back.")],
        ),
        (
            status("Canary 1.2.0", "1.1.0", candidate="1.2.0"), status("RolledBack", "1.1.0", ROLLED_BACK),
            [("Warning", "PluginRolledBack", "1.2.0 was tried and taken back.")],
        ),
        (status("RolledBack", "1.1.0", ROLLED_BACK), status("RolledBack", "1.1.0", ROLLED_BACK), []),
        (status(), status("Running", "1.0.0", condition("Updated", "False", "Held", "1.3.0 is there.")), []),
        (
            None, status("Pending", "1.0.0", MISFIT, passedOver=[PASSED]),
            [("Normal", "ReleasePassedOver", "greet 1.1.0 is passed over: It needs Python >=3.99.")],
        ),
        (
            status("Pending", "1.0.0", MISFIT, passedOver=[PASSED]),
            status("Pending", "1.0.0", MISFIT, passedOver=[PASSED | {"message": "another gateway's words"}]), [],
        ),
        (status(), status("Disabled", "1.0.0", DISABLED), [("Warning", "PluginDisabled", "60 % of its 40 calls failed.")]),
        (status("Disabled", "1.0.0", DISABLED), status(), [("Normal", "PluginEnabled", "greet 1.0.0 is enabled again.")]),
        (status(), status("Off"), [("Normal", "PluginSwitchedOff", "greet was switched off by .spec.enabled.")]),
        (status("Off"), status(), [("Normal", "PluginEnabled", "greet 1.0.0 is enabled again.")]),
        (None, status("Off", None), []),
        (status(), status("Failed", "1.0.0", FAILED), [("Warning", "PluginFailed", "PluginLoadFailed: It cannot be imported.")]),
        (status("Failed", "1.0.0", FAILED), status("Failed", "1.0.0", FAILED), []),
        (None, status("Failed", None, REFUSED), [("Warning", "PluginRefused", "PluginNotPermitted: It asks for os.")]),
        (status(), status("Pending", "1.0.0", condition("Programmed", "False", "NoGateways", "None runs.")), []),
    ],
)  # fmt: skip
def test_what_happened_is_told_once(
    held: dict[str, Any] | None, wanted: dict[str, Any], expected: list[tuple[str, str, str]]
) -> None:
    assert [(h.type, h.reason, h.message) for h in happenings_of(write(held, wanted))] == expected


def test_the_same_happening_has_the_same_mark_and_a_later_one_has_not() -> None:
    one = [h.mark for h in happenings_of(write(status(), status("Disabled", "1.0.0", DISABLED)))]
    again = [h.mark for h in happenings_of(write(status(), status("Disabled", "1.0.0", DISABLED)))]
    later = [
        h.mark
        for h in happenings_of(
            write(status("Running", "1.0.0", condition("Ready")), status("Disabled", "1.0.0", DISABLED))
        )
    ]
    assert one == again
    assert one != later


def test_other_kinds_tell_nothing() -> None:
    assert not list(happenings_of(StatusWrite("NexusService", {"metadata": {}}, status())))


class Events:
    """The API server's events. fault: what creating raises."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.fault: KubeError | None = None

    async def create(self, kind: Kind, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        if any(each["metadata"] == body["metadata"] for each in self.made):
            raise Conflict("there is one")
        assert (kind.kind, namespace) == ("Event", body["metadata"]["namespace"])
        self.made.append(body)
        return body


def writer(events: Events) -> EventWriter:
    kube: KubeApi = events  # type: ignore[assignment]  # the one call that is made of it
    return EventWriter(kube)


async def test_an_event_is_written_once_whoever_tells_it() -> None:
    events = Events()
    told = list(happenings_of(write(None, status(acknowledged="1.0.0"))))
    await writer(events).tell(told)
    await writer(events).tell(told)  # a process that was killed before it wrote the status
    [event] = events.made
    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "PluginInstalled", 1)
    assert event["metadata"]["name"].startswith("greet.")


async def test_an_api_server_that_is_away_is_told_later_and_a_refusal_is_not_repeated() -> None:
    events, told = Events(), list(happenings_of(write(None, status(acknowledged="1.0.0"))))
    mine = writer(events)
    events.fault = KubeAway("away")
    with pytest.raises(KubeAway):
        await mine.tell(told)
    events.fault = None
    await mine.tell(told)
    assert len(events.made) == 1
    other = writer(events)
    events.fault = KubeError("forbidden", 403)
    await other.tell(list(happenings_of(write(status(), status("Off")))))
    events.fault = AssertionError("asked again")  # type: ignore[assignment]
    await other.tell(list(happenings_of(write(status(), status("Off")))))
