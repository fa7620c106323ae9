"""What the GraphiQL test needs: the pinned scripts from npm, once into a cache, and a service to ask.

GraphiQL's sources are not in this repository: `npm install` gets them through the registry the user has set up.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from nexus_graphql.graphiql import PACKAGES, GraphiqlPage
from nexus_sdk import SettingsError

CACHE = Path(os.environ.get("NEXUS_TESTBED_CACHE", Path.home() / ".cache" / "nexus-testbed")) / "graphiql"

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Catalog", "version": "1"},
    "paths": {
        "/products": {
            "get": {
                "operationId": "products",
                "summary": "Everything that is sold",
                "responses": {
                    "200": {
                        "description": "",
                        "content": {
                            "application/json": {
                                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Product"}}
                            }
                        },
                    }
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Product": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {"id": {"type": "string"}, "name": {"type": "string"}},
            }
        }
    },
}


async def find_assets() -> Path:
    """Return a directory with the scripts; installs them when the cache has not got them."""
    modules = CACHE / "node_modules"
    try:
        GraphiqlPage(str(modules))
    except SettingsError:
        npm = shutil.which("npm")
        assert npm is not None, "npm is missing: install Node.js, or the package npm of Debian."
        CACHE.mkdir(parents=True, exist_ok=True)
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps", "--omit=dev", "--omit=optional")
        done = await asyncio.create_subprocess_exec(
            npm, "install", "--prefix", str(CACHE), *options, *PACKAGES,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await done.communicate()
        assert done.returncode == 0, output.decode(errors="replace")
    return modules
