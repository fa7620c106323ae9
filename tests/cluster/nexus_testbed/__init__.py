"""A real Kubernetes control plane for tests, on one machine, without containers. See tests/cluster/README.md."""

from nexus_testbed.cluster import Cluster, ClusterError, CommandError, Response
from nexus_testbed.components import BuildError
from nexus_testbed.images import Image
from nexus_testbed.preflight import PreflightError

__all__ = ["BuildError", "Cluster", "ClusterError", "CommandError", "Image", "PreflightError", "Response"]
