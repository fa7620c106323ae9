"""The event service: CloudEvents 1.0 in over HTTP, durable before the reply, pushed to subscribers until they confirm."""
