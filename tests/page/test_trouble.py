"""Errors that a person understands: a key, a busy service, a text that is too long, a restart."""

import json
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import expect

from benchmarks.serving.process import free_port
from tests.conftest import KEY, HeldServer, Server, Trained, serve
from tests.page.conftest import Open, answer_once
from tests.page.test_surprise import wait_for_readings


def test_the_page_asks_for_the_key(strict: HeldServer, open_page: Open) -> None:
    page, _ = open_page(strict.url)
    dialog = page.get_by_role("dialog")
    page.get_by_role("textbox", name="Key").fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_contain_text("did not accept this key")
    page.get_by_role("textbox", name="Key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_have_count(0)
    wait_for_readings(page)
    page.reload()
    wait_for_readings(page)  # the tab remembers the key


def test_a_busy_service_is_asked_again_when_it_says(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, "models")
    answer_once(
        page,
        "/v1/completions",
        429,
        headers={"retry-after": "2"},
        body=json.dumps({"error": {"message": "busy", "code": "too_many_requests"}}),
    )
    page.get_by_role("link", name="Surprise").click()
    expect(page.get_by_text("The models are busy. Trying again in")).to_be_visible()
    wait_for_readings(page)
    expect(page.locator(".notice")).to_have_count(0)


def test_a_text_that_is_too_long_for_the_llm_leaves_the_other_rows(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote('xq ' * 1500)}")
    expect(page.locator(".surprise-row.llm .failure")).to_contain_text("too long for the LLM")
    page.locator(".surprise-row.bigram .token").first.wait_for()


def test_a_stream_that_is_cut_off_says_so(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, "race")
    body = 'data: {"text":" and then"}\n\n'
    page.route("**/generate_text", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body))
    page.get_by_role("button", name="Race").click()
    expect(page.locator(".lane.bigram .finish")).to_contain_text("cut off")
    expect(page.locator(".lane.bigram .new")).to_have_text(" and then", use_inner_text=False)


def test_the_page_recovers_when_the_service_restarts(trained: Trained, tmp_path: Path, open_page: Open) -> None:
    port = free_port()
    with serve(trained, tmp_path / "first", port) as first:
        page, _ = open_page(first.url)
        wait_for_readings(page)
    page.locator("textarea").fill("A ship at sea")
    expect(page.get_by_text("The service does not answer")).to_be_visible()
    with serve(trained, tmp_path / "second", port):
        wait_for_readings(page)
        expect(page.locator(".surprise-row.llm .strip")).to_have_text("A ship at sea")
        expect(page.get_by_text("The service does not answer")).to_have_count(0)
