"""Reads the Secrets and ConfigMaps that came to be named: what the inventory dropped of them before."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_core.model.resources import Resource

from nexus_operator.edge.kube import KubeApi, KubeError, NotFound
from nexus_operator.world.inventory import Inventory, Key
from nexus_operator.world.kinds import BY_NAME
from nexus_operator.world.named import named_by


class NamedObjects:
    """Keeps in the inventory what NexusPlugins and NexusMarketplaces name. Changes of it come by the watches, as all others do."""

    def __init__(self, kube: KubeApi, inventory: Inventory) -> None:
        self._kube = kube
        self._inventory = inventory
        self._due: dict[tuple[str, Key], None] = {}

    async def read(self, resources: Iterable[Resource]) -> bool:
        """Read what is missing of what these resources name; return whether the inventory knows more now.

        Raises KubeError when something could not be read, which the next call tries again; all else is read.
        """
        named = named_by(resources)
        self._due.update(dict.fromkeys(self._inventory.name(named)))
        self._due = {at: None for at in self._due if (at[0], *at[1]) in named}
        more, fault = False, None
        for kind, (namespace, name) in tuple(self._due):
            try:
                found = await self._kube.get(BY_NAME[kind], namespace, name)
            except NotFound:
                pass  # when it comes, the watch brings all that is named of it
            except KubeError as err:
                fault = err
                continue
            else:
                more |= self._inventory.observe(kind, found)
            self._due.pop((kind, (namespace, name)), None)
        if fault is not None:
            raise fault
        return more
