"""Debian's Chromium, driven by Playwright, and a page that records what must not happen."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.conftest import HANG_SECONDS

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FAILED_RESOURCE = "Failed to load resource"
"""Chromium logs every response that is an error, also those that a page handles."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one module at a time: while Playwright runs, no other test can start an event loop."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium: install Debian's package chromium, or set CHROMIUM")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@dataclass
class Seen:
    """What a page has asked for and complained about."""

    hosts: set[str] = field(default_factory=set)
    paths: list[str] = field(default_factory=list)
    finished: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme != "blob":  # the picture card, which is in the page's memory
            self.hosts.add(url.netloc)
            self.paths.append(url.path)

    def message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    @property
    def errors(self) -> list[str]:
        """The complaints, without those about responses that the page handles."""
        return [text for text in self.complaints if FAILED_RESOURCE not in text]


expect.set_options(timeout=1000 * HANG_SECONDS)
Open = Callable[..., tuple[Page, Seen]]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens the page of a server, at an address behind `#`; `options` are those of the browser's context.

    At the end, no page has asked another host for anything, and no script has failed.
    """
    contexts: list[BrowserContext] = []
    opened: list[tuple[str, Seen]] = []

    def open_at(url: str, address: str = "", **options: Any) -> tuple[Page, Seen]:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(1000 * HANG_SECONDS)
        context.add_init_script(
            "window.shifts = []; new PerformanceObserver(list => window.shifts.push(...list.getEntries()"
            ".filter(entry => !entry.hadRecentInput).map(entry => entry.value)))"
            ".observe({type: 'layout-shift', buffered: true});"
        )
        page, seen = context.new_page(), Seen()
        page.on("request", seen.request)
        page.on("requestfinished", lambda request: seen.finished.append(request))
        page.on("console", seen.message)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.goto(f"{url}/ui#{address}")
        contexts.append(context)
        opened.append((urlsplit(url).netloc, seen))
        return page, seen

    yield open_at
    for host, seen in opened:
        assert seen.hosts == {host}
        assert seen.errors == []
    for context in contexts:
        context.close()


def answer_once(page: Page, path: str, status: int, **response: Any) -> None:
    """Let the next request of `path` fail with `status`, as the service does when something is wrong; later ones reach the service."""

    page.route(f"**{path}", lambda route: route.fulfill(status=status, content_type="application/json", **response), times=1)
