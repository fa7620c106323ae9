"""The places where a marketplace's files can be, each read alike: web server, OCI registry, directory, ConfigMap, this installation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, SourcePort
from nexus_marketplace.troubles import MarketplaceTrouble

if TYPE_CHECKING:
    from nexus_core.model.plugins import Source

ReadConfigMap = Callable[[str, str], "Mapping[str, bytes | str] | None"]
"""(namespace, name) → its keys with their content, `data` as text and `binaryData` decoded; None when there is none."""

__all__ = ["FileMissing", "FileTooLarge", "ReadConfigMap", "SourcePort", "open"]


def open(source: Source, configmap: ReadConfigMap | None = None) -> SourcePort:  # noqa: A001 - used as `sources.open`
    """Return where the files of a NexusMarketplace's `spec.source` are read. Nothing is read yet.

    configmap: how ConfigMaps are read here. Raises `MarketplaceTrouble` for one where that is None.
    """
    from nexus_marketplace.sources import local, web

    if source.bundled:
        return local.Bundled()
    if source.url is not None:
        return web.Web(source.url)
    if source.oci is not None:
        from nexus_marketplace.sources.oci import Registry, parse

        return Registry(parse(source.oci), plain_http=source.plain_http)
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
