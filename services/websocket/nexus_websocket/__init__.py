"""The WebSocket service: channels that clients subscribe to, fed by the event service, by POST and by clients."""
