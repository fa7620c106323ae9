"""The shop's page in a real browser, through the gateway."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def page(shop: Any) -> Iterator[Page]:
    """A page of a headless Chromium. What it complains about fails the test."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 860})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # The page asks for the list once it is subscribed: what is placed after that is told, and not in the list.
        with page.expect_response("**/orders?limit=20") as loaded:
            page.goto(shop.gateway + "/")
        loaded.value.finished()
        yield page
        browser.close()
    assert complaints == []


def test_an_order_placed_elsewhere_appears_live(shop: Any, page: Page, tmp_path: Path) -> None:
    expect(page.get_by_role("status").first).to_have_text("live")
    expect(page.locator(".item")).to_have_count(6)
    placed = shop.order("Ada Lovelace")
    line = page.locator(f"#orders li[data-id='{placed['id']}']")
    expect(line).to_contain_text("Ada Lovelace")
    expect(line).to_have_class("fresh")
    expect(page.locator("#orders li").first).to_have_attribute("data-id", placed["id"])
    page.screenshot(path=tmp_path / "shop.png")


def test_the_form_places_an_order(page: Page) -> None:
    expect(page.get_by_role("status").first).to_have_text("live")
    page.get_by_text("Desk lamp", exact=True).click()
    page.get_by_label("Pieces").fill("3")
    page.get_by_label("Your name").fill("Alan")
    page.get_by_role("button", name="Place the order").click()
    expect(page.locator("#said")).to_contain_text("Thank you, Alan: 3 × Desk lamp")
    expect(page.locator("#orders li").first).to_contain_text("3 × Desk lamp")
    expect(page.locator("#orders li").first).to_contain_text("Alan")
