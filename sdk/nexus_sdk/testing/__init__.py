"""For the tests of services and plugins: real parts, no mocks.

`PluginKit` drives a plugin's hooks without a gateway; `LocalConsul` runs a real Consul agent; `MemoryDiscovery` says
where services are without a registry. `ServiceApp.test_server()` runs an app on a free port.
"""

from __future__ import annotations

from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_sdk.testing.plugin_kit import PluginContractError, PluginKit, Timing

__all__ = ["MemoryDiscovery", "PluginContractError", "PluginKit", "Timing"]
