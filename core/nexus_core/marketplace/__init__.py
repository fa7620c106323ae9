"""Marketplaces as values: the index, which releases go together and may be taken, what a publisher signs, how an artefact is built."""

from nexus_core.marketplace.index import Index, IndexInvalid, parse_index
from nexus_core.marketplace.signing import signed_bytes

__all__ = ["Index", "IndexInvalid", "parse_index", "signed_bytes"]
