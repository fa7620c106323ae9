"""Active health checks: endpoints are probed whether or not there is traffic. Probing never touches the path of requests."""
