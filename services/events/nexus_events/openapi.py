"""The service's OpenAPI 3.1 document."""

from __future__ import annotations

from typing import Any

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 128}}
_AFTER = {
    "name": "after",
    "in": "query",
    "schema": {"type": "integer", "minimum": 0, "default": 0},
    "description": "Offset to go on from: `next` of the page before.",
}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _object(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        **more,
    }


_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_NAMED = {"type": "string", "minLength": 1}
_OFFSETS = {"type": "array", "items": {"type": "integer"}}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Nexus events",
        "version": "0.1.0",
        "description": "CloudEvents 1.0 in, durable before the reply, pushed to subscribers.",
    },
    "paths": {
        "/events": {
            "post": {
                "operationId": "publishEvents",
                "summary": "Publish one CloudEvent or a batch (also binary mode: ce-* headers)",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/cloudevents+json": {"schema": _ref("CloudEvent")},
                        "application/cloudevents-batch+json": {
                            "schema": {"type": "array", "items": _ref("CloudEvent")}
                        },
                    },
                },
                "responses": {
                    "202": _json(_ref("Accepted"), "Every event is durable."),
                    "400": _problem("No valid CloudEvent; nothing was stored."),
                    "413": _problem("Too large."),
                    "415": _problem("Not a CloudEvent in a known format."),
                    "503": _problem("The store cannot take it now; nothing was stored."),
                },
            },
            "get": {
                "operationId": "readEvents",
                "summary": "Read the log of events in order",
                "parameters": [
                    _AFTER,
                    _LIMIT,
                    {
                        "name": "type",
                        "in": "query",
                        "schema": {"type": "string"},
                        "description": "Exact, or a prefix with * at its end.",
                    },
                    {
                        "name": "wait",
                        "in": "query",
                        "schema": {"type": "integer", "minimum": 0, "maximum": 60, "default": 0},
                        "description": "Seconds to wait for an event if there is none.",
                    },
                ],
                "responses": {
                    "200": _json(_ref("EventPage"), "Events with their offsets."),
                    "400": _problem("A query parameter is wrong."),
                },
            },
        },
        "/subscriptions": {
            "get": {
                "operationId": "listSubscriptions",
                "summary": "All subscriptions with their state",
                "responses": {
                    "200": _json(_object({"subscriptions": {"type": "array", "items": _ref("Subscription")}}), "By id.")
                },
            },
        },
        "/subscriptions/{id}": {
            "parameters": [_ID],
            "put": {
                "operationId": "putSubscription",
                "summary": "Make, change or renew a subscription",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _ref("SubscriptionRequest")}},
                },
                "responses": {
                    "200": _json(_ref("Subscription"), "It was there and keeps its position."),
                    "201": _json(_ref("Subscription"), "It is new."),
                    "400": _problem("What is asked for is wrong."),
                    "429": _problem("Too many subscriptions."),
                },
            },
            "get": {
                "operationId": "getSubscription",
                "summary": "One subscription with its state",
                "responses": {"200": _json(_ref("Subscription"), "It."), "404": _problem("There is none.")},
            },
            "delete": {
                "operationId": "deleteSubscription",
                "summary": "Delete a subscription and its dead letters",
                "responses": {"204": {"description": "It is gone."}},
            },
        },
        "/subscriptions/{id}/dead-letters": {
            "parameters": [_ID],
            "get": {
                "operationId": "listDeadLetters",
                "summary": "Events that the subscriber did not take, with the cause",
                "parameters": [_AFTER, _LIMIT],
                "responses": {
                    "200": _json(_ref("LetterPage"), "In offset order."),
                    "404": _problem("No such subscription."),
                },
            },
            "delete": {
                "operationId": "deleteDeadLetters",
                "summary": "Delete dead letters",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _object({"offsets": _OFFSETS})}},
                },
                "responses": {
                    "200": _json(_object({"deleted": _WHOLE}), "How many."),
                    "404": _problem("No such subscription."),
                },
            },
        },
        "/subscriptions/{id}/dead-letters/redrive": {
            "parameters": [_ID],
            "post": {
                "operationId": "redriveDeadLetters",
                "summary": "Try dead letters again, once each",
                "requestBody": {
                    "required": False,
                    "content": {"application/json": {"schema": _object({"offsets": _OFFSETS}, [])}},
                },
                "responses": {
                    "202": _json(_object({"redriven": _WHOLE}), "How many will be tried."),
                    "404": _problem("No such subscription."),
                },
            },
        },
    },
    "components": {
        "schemas": {
            "CloudEvent": _object(
                {
                    "specversion": {"type": "string", "const": "1.0"},
                    "id": _NAMED,
                    "source": _NAMED,
                    "type": _NAMED,
                    "time": {"type": "string", "format": "date-time"},
                    "subject": _NAMED,
                    "datacontenttype": _NAMED,
                    "dataschema": _NAMED,
                    "data": {},
                    "data_base64": _TEXT,
                },
                ["specversion", "id", "source", "type"],
                additionalProperties=True,
            ),
            "Accepted": _object(
                {
                    "accepted": _WHOLE,
                    "duplicates": _WHOLE,
                    "durability": {"type": "string", "enum": ["fsynced", "memory"]},
                    "offsets": _OFFSETS,
                }
            ),
            "Entry": _object({"offset": _WHOLE, "receivedAt": _TEXT, "event": _ref("CloudEvent")}),
            "EventPage": _object(
                {
                    "events": {"type": "array", "items": _ref("Entry")},
                    "next": _WHOLE,
                    "head": _WHOLE,
                    "oldest": _WHOLE,
                    "store": _TEXT,
                    "truncated": {"type": "boolean", "description": "Retention has deleted events beyond `after`."},
                }
            ),
            "Sink": {
                "oneOf": [_TEXT, _object({"url": _TEXT}), _object({"service": _TEXT, "path": _TEXT}, ["service"])]
            },
            "Delivery": _object(
                {"maxAttempts": _WHOLE, "maxAgeSeconds": {"type": "number"}, "timeoutSeconds": {"type": "number"}}, []
            ),
            "SubscriptionRequest": _object(
                {
                    "sink": _ref("Sink"),
                    "types": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 100},
                    "ttlSeconds": {"type": ["number", "null"]},
                    "delivery": _ref("Delivery"),
                    "start": {
                        "oneOf": [
                            {"type": "string", "enum": ["latest", "earliest"]},
                            _object({"after": _WHOLE, "store": _TEXT}, ["after"]),
                        ]
                    },
                },
                ["sink", "types"],
            ),
            "Subscription": _object(
                {
                    "id": _TEXT,
                    "sink": _ref("Sink"),
                    "types": {"type": "array", "items": _TEXT},
                    "ttlSeconds": {"type": ["number", "null"]},
                    "delivery": _ref("Delivery"),
                    "store": _TEXT,
                    "expiresAt": {"type": ["string", "null"]},
                    "status": _object(
                        {
                            "cursor": _WHOLE,
                            "lag": _WHOLE,
                            "skipped": _WHOLE,
                            "deadLetters": _WHOLE,
                            "attempts": _WHOLE,
                            "lastError": _TEXT,
                            "nextAttemptAt": {"type": ["string", "null"]},
                        }
                    ),
                }
            ),
            "Letter": _object(
                {
                    "offset": _WHOLE,
                    "receivedAt": _TEXT,
                    "event": _ref("CloudEvent"),
                    "cause": _TEXT,
                    "attempts": _WHOLE,
                    "diedAt": _TEXT,
                    "redriven": {"type": "boolean"},
                }
            ),
            "LetterPage": _object({"deadLetters": {"type": "array", "items": _ref("Letter")}, "next": _WHOLE}),
            "Problem": _object(
                {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT, "reason": _TEXT},
                ["title", "status", "detail"],
            ),
        }
    },
}
