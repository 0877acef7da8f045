"""The pictures in docs/page.md, taken anew with the models of the default store: `make screenshots`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import FloatRect, Page, expect

from benchmarks.serving.process import served
from tests.client import MODELS
from tests.conftest import PROJECT
from tests.page.conftest import Open
from tests.page.test_quality import VIEWS, wait_for_view
from tests.page.test_surprise import wait_for_readings

pytestmark = pytest.mark.slow

WIDTHS = {1280: 900, 390: 844}
MAX_HEIGHT = 1600
"""Of a picture: the views are longer on a phone."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with the models that `make serve` would serve."""
    if subprocess.run([sys.executable, "-m", "models.store"], cwd=PROJECT, capture_output=True).returncode:
        pytest.skip("the default model store lacks a model: train one, for example with `make serve`")
    command = [str(Path(sys.executable).parent / "bentoml"), "serve", "--host", "127.0.0.1", "--port", "PORT"]
    with served(command, "/readyz", tmp_path_factory.mktemp("site") / "log", os.environ) as (url, _):
        yield url


def show(page: Page, view: str) -> None:
    """Bring a view into the state that its picture shows."""
    if view == "surprise" and (page.viewport_size or {"width": 0})["width"] > 1000:
        page.locator(".surprise-row.llm .token").nth(-2).hover()
    elif view == "race":
        page.get_by_role("button", name="Race").click()
        for model in MODELS:
            expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "done")
    elif view == "guess":
        for guess, sureness in (("the", "60"), ("hall", "20"), ("had", "40")):
            page.locator("#sureness").fill(sureness)
            page.locator("#your-guess").fill(guess)
            page.locator("#your-guess").press("Enter")
        page.locator("#your-guess").blur()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_take_a_picture_of_each_view(site: str, open_page: Open, tmp_path: Path, view: str, width: int, scheme: str) -> None:
    address = "race?seed=5&length=60" if view == "race" else view
    page, _ = open_page(site, address, viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, reduced_motion="reduce")
    wait_for_view(page, view)
    show(page, view)
    directory = Path(os.environ.get("PICTURES", tmp_path))
    directory.mkdir(exist_ok=True)
    height = min(page.evaluate("document.documentElement.scrollHeight"), MAX_HEIGHT)
    clip: FloatRect = {"x": 0, "y": 0, "width": width, "height": height}
    page.screenshot(path=directory / f"{view}-{width}-{scheme}.png", full_page=True, clip=clip)


def test_the_llm_is_surprised_least(site: str, open_page: Open) -> None:
    page, _ = open_page(site)
    wait_for_readings(page)
    bits = [float(page.locator(f".surprise-row.{model} .average").get_attribute("data-average") or "nan") for model in MODELS]
    assert bits[2] == min(bits)


def test_real_models_mark_the_right_words_and_decline(site: str, open_page: Open) -> None:
    page, _ = open_page(site, "ask")
    expect(page.locator(".passage mark")).to_have_text("Anna Berg")
    page.get_by_role("button", name="How tall is the lighthouse?").click()
    expect(page.locator(".verdict")).to_have_text("Not in this passage")
