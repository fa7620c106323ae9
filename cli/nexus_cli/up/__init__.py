"""`nexus up`: services as supervised local processes, the gateway in this one, discovery from health checks."""
