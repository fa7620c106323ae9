"""The edge to Consul: the connection (py-consul), the rules of blocking queries (pure), the registration of a service."""
