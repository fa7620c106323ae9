"""JSON over HTTP for gRPC services. `plugin.yaml` says how it is configured."""

from .plugin import GrpcJson

__all__ = ["GrpcJson"]
