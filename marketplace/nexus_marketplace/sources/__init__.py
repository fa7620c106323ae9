"""The places where a marketplace's files can be, each read alike: web server, OCI registry, directory, ConfigMap, this installation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort
from nexus_marketplace.troubles import MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.model.plugins import Source
    from nexus_core.translate.market_access import Access, Locked

ReadConfigMap = Callable[[str, str], "Mapping[str, bytes | str] | None"]
"""(namespace, name) → its keys with their content, `data` as text and `binaryData` decoded; None when there is none."""


class _Closed:
    """A place whose login cannot be read. It is not asked without one: what it said last stays in use."""

    def __init__(self, source: SourcePort, why: Locked) -> None:
        self.base_url, self.for_people, self.signed = source.base_url, source.for_people, source.signed
        self._why = why

    def begin(self) -> None:
        raise MarketplaceTrouble("MarketplaceUnreachable", self._why.what, self._why.fix, retryable=True)

    def read(self, path: str, max_bytes: int) -> bytes:
        """Raises `MarketplaceTrouble`, as `begin` does."""
        self.begin()
        raise AssertionError("unreachable")


__all__ = ["FileMissing", "FileTooLarge", "ReadConfigMap", "SourcePort", "open"]


def open(  # noqa: A001 - used as `sources.open`
    source: Source, configmap: ReadConfigMap | None = None, access: Access | Locked | None = None
) -> SourcePort:
    """Return where the files of a NexusMarketplace's `spec.source` are read. Nothing is read yet.

    configmap: how ConfigMaps are read here. access: what its `secretRef` names; of one that cannot be read, each look at the
    marketplace tells. Raises `MarketplaceTrouble` for a ConfigMap where `configmap` is None.
    """
    from nexus_core.translate.market_access import Locked

    from nexus_marketplace.sources import local, web

    if isinstance(access, Locked):
        return _Closed(open(source, configmap), access)
    if source.bundled:
        return local.Bundled()
    if source.url is not None:
        return web.Web(source.url, access=access)
    if source.oci is not None:
        from nexus_marketplace.sources.oci import Registry, parse

        return Registry(parse(source.oci), plain_http=source.plain_http, access=access)
    if source.directory is not None:
        return local.Directory(Path(source.directory))
    if source.config_map is not None:
        if configmap is None:
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                "The marketplace is in a ConfigMap, and no cluster is at hand here.",
                "Put its files into a directory or on a web server instead.",
            )
        namespace, name = source.config_map.namespace, source.config_map.name
        return local.ConfigMap(namespace, name, configmap)
    raise MarketplaceTrouble(
        "MarketplaceInvalid",
        "The NexusMarketplace names no place.",
        "Set one of bundled: true, url, oci, directory and configMap in spec.source.",
    )
