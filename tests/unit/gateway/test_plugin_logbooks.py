"""The lines of plugins: whose they are, how many are kept, and what a slow follower hears."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from nexus_gateway.edge.plugins.logbooks import KEPT, QUEUED, Logbook, plugin_of


@pytest.fixture
async def logbook() -> Iterator[Logbook]:
    made = Logbook({"shop/demo", "shop/a.b"}.__contains__)
    made.open()
    logging.getLogger("nexus.plugin").setLevel(logging.DEBUG)
    yield made
    logging.getLogger("nexus.plugin").setLevel(logging.NOTSET)
    made.close()


def record(name: str, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.INFO, "", 0, message, args, None)


@pytest.mark.parametrize(
    ("line", "plugin"),
    [
        (record("nexus.plugin.shop.demo", "x"), "shop/demo"),
        (record("nexus.plugin.shop.a.b", "x"), "shop/a.b"),
        (record("nexus.plugin.shop", "x"), None),
        (record("nexus.gateway.plugins", "plugin %s failed", "shop/demo"), "shop/demo"),
        (record("nexus.gateway.plugins", "plugins: %d", 3), None),
        (record("nexus.gateway.plugins", "nothing"), None),
        (record("nexus.gateway.plugins", "path %s", "/a/b"), None),
    ],
)
def test_whose_a_line_is(line: logging.LogRecord, plugin: str | None) -> None:
    assert plugin_of(line) == plugin


async def test_the_last_lines_of_each_plugin_are_kept(logbook: Logbook) -> None:
    log = logging.getLogger("nexus.plugin.shop.demo")
    for number in range(KEPT + 10):
        log.info("line %d", number)
    logging.getLogger("nexus.gateway.plugins").warning("plugin %s failed in %s", "shop/demo", "on_request")
    logging.getLogger("nexus.plugin.shop.unknown").info("x")
    await asyncio.sleep(0)
    lines = logbook.last("shop/demo")
    assert len(lines) == KEPT
    assert (lines[0]["message"], lines[-1]["message"]) == ("line 11", "plugin shop/demo failed in on_request")
    assert {**lines[0], "at": ""} == {"at": "", "level": "INFO", "plugin": "shop/demo", "message": "line 11"}
    assert logbook.last("shop/unknown") == ()


async def test_lines_of_threads_come_too_and_errors_are_told(logbook: Logbook) -> None:
    def work() -> None:
        try:
            raise ValueError("no such key")
        except ValueError:
            logging.getLogger("nexus.plugin.shop.a.b").exception("it failed")
        # Not through its logger: that has handlers of others, which raise.
        logbook.handle(record("nexus.plugin.shop.a.b", "%d apples", "three"))

    await asyncio.to_thread(work)
    await asyncio.sleep(0)
    first, second = (line["message"] for line in logbook.last("shop/a.b"))
    assert first == "it failed (ValueError: no such key)"
    assert second == "'%d apples' could not be written: TypeError"


async def test_a_follower_gets_what_was_and_what_comes(logbook: Logbook) -> None:
    log = logging.getLogger("nexus.plugin.shop.demo")
    log.info("before")
    await asyncio.sleep(0)
    lines = logbook.follow("shop/demo")
    assert (await anext(lines) or {})["message"] == "before"
    log.info("after")
    assert (await anext(lines) or {})["message"] == "after"
    await lines.aclose()
    assert not logbook.is_full


async def test_a_slow_follower_is_told_what_it_missed(logbook: Logbook) -> None:
    log = logging.getLogger("nexus.plugin.shop.demo")
    lines = logbook.follow("shop/demo")
    log.info("first")
    assert (await anext(lines) or {})["message"] == "first"
    for number in range(QUEUED + 7):
        log.info("line %d", number)
    await asyncio.sleep(0)
    for _ in range(QUEUED):
        line = await anext(lines)
        assert line is not None
        assert "dropped" not in line
    log.info("last")
    line = await anext(lines)
    assert line is not None
    assert (line["message"], line["dropped"]) == ("last", 7)
    await lines.aclose()
