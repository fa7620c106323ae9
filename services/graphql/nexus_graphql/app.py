"""The GraphQL service, wired: discovery → catalogue → schema → endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence

from nexus_core.discovery import Discovery
from nexus_sdk import ServiceApp
from nexus_sdk.plugins import ServicePlugins
from opentelemetry.sdk.trace import SpanProcessor
from prometheus_client import Counter, Gauge

from nexus_graphql import schema
from nexus_graphql import settings as graphql_settings
from nexus_graphql.catalogue import Catalogue
from nexus_graphql.execute.engine import CoreEngine
from nexus_graphql.execute.ports import Engine
from nexus_graphql.graphiql import GraphiqlPage
from nexus_graphql.hooks import OperationHooks
from nexus_graphql.http import Endpoint
from nexus_graphql.settings import GraphqlSettings

VERSION = "0.1.0"


class GraphqlService:
    """The service and its parts. app: to run; catalogue: to look at."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        settings: GraphqlSettings | None = None,
        discovery: Discovery | None = None,
        span_processors: Iterable[SpanProcessor] = (),
    ) -> None:
        """environ: None for the process's. settings, discovery: instead of those the environment chooses.

        Raises SettingsError.
        """
        environ = os.environ if environ is None else environ
        self.settings = settings = settings or graphql_settings.parse(environ)
        self.app = app = ServiceApp(
            "graphql", version=VERSION, environ=environ, discovery=discovery, max_body_bytes=settings.body_bytes,
            meta={"nexus-type": "graphql"}, span_processors=span_processors,
        )  # fmt: skip
        self._documents = Counter(
            "nexus_graphql_documents", "Looks into the cache of parsed documents.", ["result"], registry=app.metrics
        )
        self.catalogue = Catalogue(
            app.discovery, app.client, self._build, settings.catalogue, app.log,
            own_name=app.registered_name, now=lambda: asyncio.get_running_loop().time(),
        )  # fmt: skip
        page = GraphiqlPage(settings.graphiql_assets) if settings.graphiql else None
        hooks = OperationHooks(ServicePlugins(app))
        endpoint = Endpoint(self.catalogue, app.client, settings, app.tracer, app.log, page, hooks)
        app.route("*", settings.path)(endpoint.handle)
        if page is not None and page.files:
            app.get(f"{settings.path}/assets/{{file:.+}}")(page.asset)
        app.background(self.catalogue.run, name="catalogue")
        app.readiness("catalogue", self.catalogue.check)
        self._add_metrics()

    def _build(self, models: Sequence[schema.ServiceModel]) -> Engine:
        return CoreEngine(
            schema.build(models), self.settings.limits, introspection=self.settings.introspection,
            count=lambda result: self._documents.labels(result).inc(),
        )  # fmt: skip

    def _add_metrics(self) -> None:
        gauges = (
            ("nexus_graphql_schema_version", "Schemas built by this process.", lambda: self.catalogue.view.version),
            ("nexus_graphql_services", "Services known.", lambda: len(self.catalogue.view.services)),
            ("nexus_graphql_services_troubled", "Services whose document is stale, broken or missing.",
             lambda: sum(s.state != "live" for s in self.catalogue.view.services)),
        )  # fmt: skip
        for name, text, read in gauges:
            Gauge(name, text, registry=self.app.metrics).set_function(read)


def main() -> None:
    """Serve until SIGTERM. Raises SettingsError before it listens."""
    GraphqlService().app.run()
