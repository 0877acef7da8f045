"""Accessibility, size, speed, and what the page may load."""

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.client import MODELS
from tests.conftest import PROJECT, Server
from tests.page.conftest import Open
from tests.page.test_surprise import wait_for_readings

AXE = PROJECT / "clients/typescript/node_modules/axe-core/axe.min.js"
VIEWS = ["surprise", "race", "ask", "guess", "models"]
MAX_BYTES = 150_000
MAX_FIRST_VIEW_MS = 300


def wait_for_view(page: Page, view: str) -> None:
    """Wait until the models have answered what the view asks them at first."""
    if view == "surprise":
        wait_for_readings(page)
    elif view == "race":
        for model in MODELS:
            expect(page.locator(f".lane.{model} .bars li")).to_have_count(5)
    elif view == "ask":
        page.locator(".verdict").wait_for()
    elif view == "guess":
        expect(page.get_by_role("button", name="Guess", exact=True)).to_be_enabled()
    else:
        page.locator(".model-card.llm").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(server: Server, open_page: Open, view: str, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed: run `make client-typescript`")
    page, _ = open_page(server.url, view, color_scheme=scheme, reduced_motion="reduce")
    wait_for_view(page, view)
    if view == "surprise":
        page.locator(".surprise-row.llm .token").nth(3).click()
        page.locator(".inspector.pinned").wait_for()
        assert violations(page) == []
        page.get_by_role("button", name="Strike out").click()
        page.locator("button.struck").wait_for()
        wait_for_readings(page)
    assert violations(page) == []
    page.get_by_role("button", name="Share").click()
    assert violations(page) == []


def violations(page: Page) -> list[tuple[str, list[Any]]]:
    """What axe-core finds that is serious or critical: the rule, and the elements that break it."""
    page.evaluate(AXE.read_text())  # not as a script tag, which the page's policy forbids
    found = page.evaluate("axe.run()")["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found if rule["impact"] in ("serious", "critical")]


def test_the_page_is_small_and_loads_each_file_once(server: Server, open_page: Open) -> None:
    page, seen = open_page(server.url)
    wait_for_readings(page)
    page.wait_for_load_state("networkidle")
    assert {"/ui", "/ui/main.js", "/ui/theme.css", "/ui/vendor/preact-htm.js", "/info", "/v1/completions"} <= set(seen.paths)
    files = [path for path in seen.paths if path.startswith("/ui") and path != "/ui/icon.svg"]  # which is an image and the tab's icon
    assert len(files) == len(set(files))
    sizes = [request.sizes()["responseBodySize"] for request in seen.finished]
    assert len(sizes) >= len(files)
    assert sum(sizes) < MAX_BYTES


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_nothing_is_wider_than_the_window_and_nothing_moves(server: Server, open_page: Open, width: int) -> None:
    for view in VIEWS:
        page, _ = open_page(server.url, view, viewport={"width": width, "height": 844})
        wait_for_view(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    page, _ = open_page(server.url, "race?length=60", viewport={"width": width, "height": 844})
    wait_for_view(page, "race")
    page.evaluate("window.shifts.length = 0")
    page.get_by_role("button", name="Race").click()
    for model in MODELS:
        expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "done")
    assert sum(page.evaluate("window.shifts")) == 0


def test_the_theme_can_be_switched_and_is_remembered(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Use dark colours").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    expect(page.get_by_role("button", name="Use light colours")).to_be_visible()


@pytest.mark.slow  # the only test that measures time
def test_the_first_view_comes_at_once(server: Server, open_page: Open) -> None:
    times = []
    for _ in range(5):
        page, _ = open_page(server.url)
        page.locator("h1").wait_for()
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity"))
    assert min(times) < MAX_FIRST_VIEW_MS, times
