"""The contract of the orders service. The GraphQL service makes its fields from the operation ids."""

from __future__ import annotations

from typing import Any


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_ORDER = {"$ref": "#/components/schemas/Order"}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Orders",
        "version": "1.0.0",
        "description": "Takes orders and announces each as `order.placed`.",
    },
    "paths": {
        "/orders": {
            "get": {
                "operationId": "listOrders",
                "summary": "The latest orders, newest first",
                "parameters": [
                    {
                        "name": "limit",
                        "in": "query",
                        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
                    }
                ],
                "responses": {
                    "200": _json("The orders.", {"type": "array", "items": _ORDER}),
                    "400": _problem("The limit is not a number from 1 to 100."),
                },
            },
            "post": {
                "operationId": "placeOrder",
                "summary": "Place an order",
                "description": "201 is sent once the order and its event are on the disk.",
                "parameters": [
                    {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "description": "The same key gives the same order, however often it is sent.",
                        "schema": {"type": "string", "maxLength": 200},
                    }
                ],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewOrder"}}},
                },
                "responses": {
                    "201": _json("The order.", _ORDER),
                    "400": _problem("The body is not an order."),
                    "422": _problem("The catalog has no such item."),
                    "503": _problem("The catalog cannot be asked now; try again."),
                },
            },
        },
        "/orders/{id}": {
            "get": {
                "operationId": "getOrder",
                "summary": "One order",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": _json("The order.", _ORDER), "404": _problem("There is no such order.")},
            }
        },
    },
    "components": {
        "schemas": {
            "NewOrder": {
                "type": "object",
                "required": ["item"],
                "properties": {
                    "item": {"type": "string", "maxLength": 63, "description": "Its id in the catalog."},
                    "quantity": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1},
                    "customer": {"type": "string", "minLength": 1, "maxLength": 80, "default": "somebody"},
                },
                "additionalProperties": False,
            },
            "Order": {
                "type": "object",
                "required": ["id", "item", "name", "quantity", "customer", "totalCents", "placedAt"],
                "properties": {
                    "id": {"type": "string"},
                    "item": {"type": "string", "description": "Its id in the catalog."},
                    "name": {"type": "string"},
                    "quantity": {"type": "integer"},
                    "customer": {"type": "string"},
                    "totalCents": {"type": "integer", "description": "Euro cents."},
                    "placedAt": {"type": "string", "format": "date-time"},
                },
            },
            "Problem": {
                "type": "object",
                "description": "RFC 9457.",
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                },
            },
        }
    },
}
