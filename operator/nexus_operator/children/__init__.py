"""The Deployment and Service of a NexusService that has a workload: how they look, and what has to change. No I/O."""
