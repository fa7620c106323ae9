"""The operator's contact with the world: the Kubernetes API, Consul, marketplaces, its own health endpoint."""
