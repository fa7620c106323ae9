"""The official GraphQL-over-HTTP audits (npm `graphql-http`, 61 of them) against the running service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]

CACHE = Path(os.environ.get("NEXUS_TESTBED_CACHE", Path.home() / ".cache" / "nexus-testbed")) / "graphql-http-1.23.1"
PACKAGES = ("graphql-http@1.23.1", "graphql@16.15.0")
AUDIT = """
import { serverAudits } from 'graphql-http';
const results = [];
for (const audit of serverAudits({ url: process.argv[2], fetchFn: fetch })) {
  const { status, name, reason } = await audit.fn();
  results.push({ status, name, reason });
}
console.log(JSON.stringify(results));
"""


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(150):
        out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode(errors="replace")
    return out.decode()


async def test_all_audits_pass(empty_shop: Any) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node is not None, "node is missing: install Node.js 18 or newer."
    assert npm is not None, "npm is missing: install Node.js 18 or newer."
    if not (CACHE / "node_modules" / "graphql-http").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        await run(npm, "install", "--prefix", str(CACHE), "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES)
    script = CACHE / "audit.mjs"
    script.write_text(AUDIT)
    await empty_shop.start_graphql()
    await empty_shop.until(lambda v: v.version == 1)
    results = json.loads(await run(node, str(script), f"{empty_shop.url}/graphql"))
    assert [r for r in results if r["status"] != "ok"] == []
    assert len(results) == 61
