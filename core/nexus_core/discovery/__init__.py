"""The discovery port: where services live right now. Adapters (`consul`, `file`, `memory`) are in `nexus_sdk.discovery`."""

from nexus_core.discovery.port import TLS_META, Discovery, Endpoint, ServiceEntry, service_name

__all__ = ["TLS_META", "Discovery", "Endpoint", "ServiceEntry", "service_name"]
