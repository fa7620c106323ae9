"""The service's OpenAPI 3.1 document: its HTTP side. The WebSocket's messages are in docs/reference/websocket-protocol.md."""

from __future__ import annotations

from typing import Any

_PROBLEM = {
    "content": {
        "application/problem+json": {
            "schema": {"type": "object", "properties": {"detail": {"type": "string"}, "reason": {"type": "string"}}}
        }
    }
}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Nexus websocket", "version": "0.1.0", "description": "Channels for WebSocket clients."},
    "paths": {
        "/publish": {
            "post": {
                "operationId": "publishMessage",
                "summary": "Send a message to the clients of this instance that subscribe to a channel",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "channel": {"type": "string", "minLength": 1, "maxLength": 164},
                                    "data": {},
                                },
                                "required": ["channel"],
                            }
                        }
                    },
                },
                "responses": {
                    "200": {
                        "description": "Queued for that many clients.",
                        "content": {
                            "application/json": {
                                "schema": {
                                    "type": "object",
                                    "properties": {"id": {"type": "string"}, "receivers": {"type": "integer"}},
                                    "required": ["id", "receivers"],
                                }
                            }
                        },
                    },
                    "400": {"description": "The message cannot be used.", **_PROBLEM},
                },
            }
        }
    },
}
