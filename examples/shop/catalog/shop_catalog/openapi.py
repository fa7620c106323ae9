"""The catalog's contract. The GraphQL service makes its fields from the operation ids."""

from __future__ import annotations

from typing import Any

_PROBLEM: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Catalog", "version": "1.0.0", "description": "What the shop sells."},
    "paths": {
        "/items": {
            "get": {
                "operationId": "listItems",
                "summary": "Items, in the order of the shop's shelf",
                "parameters": [
                    {
                        "name": "search",
                        "in": "query",
                        "description": "Only items whose name or summary holds this text.",
                        "schema": {"type": "string", "maxLength": 100},
                    }
                ],
                "responses": {
                    "200": {
                        "description": "The items.",
                        "content": {
                            "application/json": {
                                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}
                            }
                        },
                    }
                },
            }
        },
        "/items/{id}": {
            "get": {
                "operationId": "getItem",
                "summary": "One item",
                "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {
                    "200": {
                        "description": "The item.",
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}},
                    },
                    "404": {
                        "description": "The shop does not sell it.",
                        "content": {"application/problem+json": _PROBLEM},
                    },
                },
            }
        },
    },
    "components": {
        "schemas": {
            "Item": {
                "type": "object",
                "required": ["id", "name", "priceCents", "stock", "summary"],
                "properties": {
                    "id": {"type": "string", "description": "What orders name it by."},
                    "name": {"type": "string"},
                    "priceCents": {"type": "integer", "description": "Euro cents."},
                    "stock": {"type": "integer", "description": "Pieces at hand."},
                    "summary": {"type": "string"},
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
