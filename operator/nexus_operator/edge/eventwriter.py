"""Writes Kubernetes events of plugins. One that cannot be written is logged: nothing depends on them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime

from nexus_operator.edge.kube import Conflict, KubeApi, KubeAway, KubeError, NotFound
from nexus_operator.status.happenings import Happening
from nexus_operator.world.kinds import EVENT

log = logging.getLogger(__name__)
COMPONENT = "nexus-operator"
REMEMBERED = 1000


class EventWriter:
    """Tells each happening once: its name is made of what happened, so that the API server refuses it a second time."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube
        self._told: OrderedDict[str, None] = OrderedDict()

    async def tell(self, happenings: Iterable[Happening]) -> None:
        """Write them. Raises KubeAway when the API server does not answer: what was not told yet is told with the next call."""
        for happening in happenings:
            meta = happening.obj["metadata"]
            name = f"{str(meta['name'])[:236]}.{happening.mark}"
            if name in self._told:
                continue
            namespace = str(meta.get("namespace") or "default")
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = {
                "apiVersion": EVENT.api_version, "kind": EVENT.kind, "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": happening.obj["apiVersion"], "kind": happening.obj["kind"], "name": meta["name"],
                    "namespace": namespace, "uid": meta.get("uid"), "resourceVersion": meta.get("resourceVersion"),
                },
                "type": happening.type, "reason": happening.reason, "message": happening.message,
                "source": {"component": COMPONENT}, "reportingComponent": COMPONENT, "reportingInstance": "",
                "firstTimestamp": now, "lastTimestamp": now, "count": 1,
            }  # fmt: skip
            try:
                await self._kube.create(EVENT, namespace, body)
            except Conflict:
                pass  # told before, perhaps by a process that ended before it wrote the status
            except NotFound:
                continue  # the namespace is going
            except KubeAway:
                raise
            except KubeError as err:
                log.warning("the event %s of %s/%s was refused: %s", happening.reason, namespace, meta["name"], err)
            self._told[name] = None
            if len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
