"""HTTP as bytes: protocol cores without I/O, and the lean asyncio connections on them. Knows nothing of gateways or services."""
