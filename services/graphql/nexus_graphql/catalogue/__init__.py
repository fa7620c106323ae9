"""Which services there are, their documents, and the schema made of them."""

from nexus_graphql.catalogue.catalogue import Catalogue, View

__all__ = ["Catalogue", "View"]
