"""For the tests of services and plugins: real parts, no mocks.

`PluginKit` drives a plugin's hooks without a gateway, with a `FakeContext` for what the plugin may use; `LocalConsul` runs a
real Consul agent; `MemoryDiscovery` says where services are without a registry. `ServiceApp.test_server()` runs an app on a free port.
"""

from __future__ import annotations

from nexus_sdk.discovery.memory import MemoryDiscovery
from nexus_sdk.testing.plugin_context import Call, FakeContext
from nexus_sdk.testing.plugin_kit import Exchanged, PluginContractError, PluginKit, Timing

__all__ = ["Call", "Exchanged", "FakeContext", "MemoryDiscovery", "PluginContractError", "PluginKit", "Timing"]
