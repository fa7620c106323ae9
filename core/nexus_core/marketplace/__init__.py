"""Marketplaces as values: the index, which release a range chooses, what a publisher signs, how an artefact is built."""

from nexus_core.marketplace.choose import Choice, Refusal, choose
from nexus_core.marketplace.index import Index, IndexInvalid, parse_index
from nexus_core.marketplace.signing import signed_bytes

__all__ = ["Choice", "Index", "IndexInvalid", "Refusal", "choose", "parse_index", "signed_bytes"]
