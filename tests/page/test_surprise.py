"""The first view: a text in three rows, coloured by the bits that each model spent on it."""

import math
import re
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.client import MODELS, complete
from tests.conftest import Server
from tests.page.conftest import Open

TEXT = "The light was kept by Anna Berg. Every night Anna Berg lit the lamp."


def api_bits(server: Server, model: str, text: str) -> list[tuple[int, float]]:
    """The place and the bits of each token, as the API returns them."""
    logprobs = complete(server, model, prompt=text, max_tokens=0, echo=True, logprobs=5)["choices"][0]["logprobs"]
    pairs = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
    return [(place, -(logprob or 0) / math.log(2)) for place, logprob in pairs]


def wait_for_readings(page: Page) -> None:
    for model in MODELS:
        expect(page.locator(f".surprise-row.{model} .average")).not_to_have_attribute("data-average", "")


def shown_bits(page: Page, model: str) -> dict[int, float]:
    """The place and the bits of each token that is charged."""
    tokens = page.locator(f".surprise-row.{model} .token").evaluate_all(
        "tokens => tokens.map(token => [token.dataset.place, token.dataset.bits])"
    )
    return {int(place): float(bits) for place, bits in tokens if bits}


def test_every_token_has_the_bits_of_the_api(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote(TEXT)}")
    wait_for_readings(page)
    places = [set(shown_bits(page, model)) for model in MODELS]
    charged_from = min(places[0])
    assert {min(place) for place in places} == {charged_from}  # the same bytes for all models
    for model in MODELS:
        expected = api_bits(server, model, TEXT)
        assert "".join(page.locator(f".surprise-row.{model} .token").all_text_contents()) == TEXT
        shown = shown_bits(page, model)
        assert shown == pytest.approx({place: sum(bits for at, bits in expected if at == place) for place in shown}, abs=1e-9)
        average = sum(bits for place, bits in expected if place >= charged_from) / len(TEXT[charged_from:].encode())
        row = page.locator(f".surprise-row.{model} .average")
        assert float(row.get_attribute("data-average") or "nan") == pytest.approx(average)
        expect(row).to_contain_text(f"{average:.2f}")
    averages = {model: float(page.locator(f".surprise-row.{model} .average").get_attribute("data-average") or "nan") for model in MODELS}
    best = min(MODELS, key=averages.__getitem__)
    expect(page.locator(".badge")).to_have_text("least surprised")
    expect(page.locator(f".surprise-row.{best} .badge")).to_be_visible()


def test_the_more_bits_the_stronger_the_colour(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote(TEXT)}")
    wait_for_readings(page)
    tokens = page.locator(".surprise-row.llm .token").evaluate_all(
        "tokens => tokens.filter(token => token.dataset.bits).map(token => [token.dataset.bits / token.textContent.length,"
        " getComputedStyle(token).backgroundColor.match(/\\d+/g).map(Number)])"
    )
    ordered = [sum(color) for _, color in sorted(tokens)]  # on white paper, strong is dark
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[0] > ordered[-1]


def test_hover_shows_what_was_expected_and_a_click_continues_from_there(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote(TEXT)}")
    wait_for_readings(page)
    place = TEXT.index(" night")
    page.locator(f".surprise-row.bigram [data-place='{place}']").hover()
    for model in MODELS:
        cost = page.locator(f".inspector .expectation.{model} [data-cost]")
        within = max(at for at, _ in api_bits(server, model, TEXT) if at <= place)
        bits = dict(api_bits(server, model, TEXT))[within]
        assert float(cost.get_attribute("data-cost") or "nan") == pytest.approx(bits)
        assert page.locator(f".inspector .expectation.{model} .bars li").count() == 5
    page.locator(f".surprise-row.bigram [data-place='{place}']").click()
    page.mouse.move(0, 0)  # the place stays
    word = page.locator(".inspector .expectation.bigram .bars button").first
    said = word.text_content()
    word.click()
    expect(page.locator("textarea")).to_have_value(re.compile(rf"^{re.escape(TEXT[:place])} ?{re.escape(said or '?')}"))
    wait_for_readings(page)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("textarea")).to_have_value(TEXT)


def test_striking_a_word_out_changes_only_the_next_word_for_the_bigram(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote(TEXT)}")
    wait_for_readings(page)
    page.locator(f".surprise-row.llm .token[data-place='{TEXT.index(' kept')}']").click()
    page.get_by_role("button", name="Strike out").click()
    wait_for_readings(page)
    rest = TEXT.replace(" kept", "")
    assert "".join(page.locator(".surprise-row.bigram .token").all_text_contents()) == rest
    changed = page.locator(".surprise-row.bigram .token.more, .surprise-row.bigram .token.less")
    assert [int(place) for place in changed.evaluate_all("tokens => tokens.map(token => token.dataset.place)")] in ([], [rest.index(" by")])
    expect(page.locator(".surprise-row.llm .change")).to_contain_text("after it changed")
    expect(page).to_have_url(re.compile(r"[?&]struck=\d+-\d+"))
    page.get_by_role("button", name="kept put back").click()
    expect(page.locator(".surprise-row.bigram .strip")).to_have_text(TEXT)


def test_the_keyboard_reaches_every_word(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"surprise?text={quote(TEXT)}")
    wait_for_readings(page)
    strip = page.locator(".surprise-row.rnn .strip")
    strip.focus()
    strip.press("End")
    expect(strip.locator(".active")).to_have_text(".")
    strip.press("ArrowLeft")
    expect(strip.locator(".active")).to_have_text(" lamp")
    assert strip.get_attribute("aria-activedescendant") == strip.locator(".active").get_attribute("id")
    strip.press("Delete")
    expect(page.get_by_role("button", name="lamp put back")).to_be_visible()


def test_offsets_count_characters_and_not_utf_16_units(server: Server, open_page: Open) -> None:
    text = "The 🗼 was kept by Zoë 🇳🇴 Berg."
    page, _ = open_page(server.url, f"surprise?text={quote(text)}")
    wait_for_readings(page)
    for model in MODELS:
        assert "".join(page.locator(f".surprise-row.{model} .token").all_text_contents()) == text
        shown, expected = shown_bits(page, model), api_bits(server, model, text)
        assert sum(shown.values()) == pytest.approx(sum(bits for place, bits in expected if place >= min(shown)))


def test_typing_reads_the_new_text_once(server: Server, open_page: Open) -> None:
    page, seen = open_page(server.url)
    wait_for_readings(page)
    before = seen.paths.count("/v1/completions")
    page.locator("textarea").fill("")
    page.locator("textarea").press_sequentially("A ship at sea", delay=5)
    expect(page.locator(".surprise-row.llm .strip")).to_have_text("A ship at sea")
    wait_for_readings(page)
    assert seen.paths.count("/v1/completions") == before + 3
