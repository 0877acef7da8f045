"""The other views: race, ask, guess, models, share."""

import json
import re
import subprocess
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from playwright.sync_api import expect

from tests.client import CONTEXT, MODELS, get
from tests.conftest import HANG_SECONDS, KEY, HeldServer, Server, wait_until
from tests.page.conftest import Open


def test_all_three_columns_write_before_the_slowest_ends_and_stop_frees_the_models(strict: HeldServer, open_page: Open) -> None:
    page, _ = open_page(strict.url, "race?length=100&seed=1")
    page.get_by_role("textbox", name="Key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    page.wait_for_load_state("networkidle")
    with strict.texts_held(after=3):
        page.get_by_role("button", name="Race").click()
        for model in MODELS:
            expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "writing")
            expect(page.locator(f".lane.{model} .new")).not_to_have_text("")
        page.get_by_role("button", name="Stop").click()
        for model in MODELS:
            expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "stopped")
        strict.wait_for("closed", 3)  # although the gate is still shut
        wait_until(strict.all_closed, "the texts closed")  # those of the bars end by themselves
    shifts: list[float] = page.evaluate("window.shifts")
    assert sum(shifts) < 0.01


def test_a_race_ends_with_its_figures_and_the_seed_repeats_it(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, f"race?start={quote('The light')}&length=12&seed=7&temperature=0.7&top_k=3")
    texts = []
    for _ in range(2):
        page.get_by_role("button", name="Race").click()
        for model in MODELS:
            expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "done")
            expect(page.locator(f".lane.{model} .finish")).to_have_text(re.compile("reached the length|ended by itself"))
            assert re.fullmatch(r"[\d.,]+ (ms|s)", page.locator(f".lane.{model} .figures dd").first.inner_text())
            assert re.fullmatch(r"[\d.,]+", page.locator(f".lane.{model} .figures dd").nth(1).inner_text())
        texts.append([page.locator(f".lane.{model} .new").text_content() for model in MODELS])
    assert texts[0] == texts[1]
    body = {"start_word": "The light", "length": 12, "seed": 7, "temperature": 0.7, "top_k": 3, "top_p": 0.95}
    generated = httpx.post(f"{server.url}/generate_text", json=body, timeout=HANG_SECONDS).json()["generated_text"]
    assert generated == f"The light{texts[0][0]}"


def test_a_race_without_a_seed_can_be_shared_and_run_again(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, "race?length=8")
    page.get_by_role("button", name="Race").click()
    for model in MODELS:
        expect(page.locator(f".lane.{model}")).to_have_attribute("data-state", "done")
    page.get_by_role("button", name="Share").click()
    address = page.locator("#share-link").input_value()
    other, _ = open_page(server.url, address.partition("#")[2])
    other.get_by_role("button", name="Race").click()
    for model in MODELS:
        expect(other.locator(f".lane.{model}")).to_have_attribute("data-state", "done")
        assert other.locator(f".lane.{model} .new").text_content() == page.locator(f".lane.{model} .new").text_content()


def test_the_sliders_reshape_the_first_word_without_a_request(server: Server, open_page: Open) -> None:
    page, seen = open_page(server.url, f"race?start={quote('The light')}&temperature=1&top_p=1")
    numbers = page.locator(".lane.bigram .bars .number")
    expect(numbers).to_have_count(5)
    expect(page.locator(".lane.llm .bars .number")).to_have_count(5)
    expect(page.locator(".lane.rnn .bars .number")).to_have_count(5)
    asked = len(seen.paths)
    page.get_by_label("Top-k").fill("1")
    expect(numbers.first).to_have_text("100 %")
    page.get_by_label("Top-k").fill("0")
    page.get_by_label("Temperature").fill("0")
    expect(numbers.first).to_have_text("100 %")
    expect(numbers.nth(1)).to_have_text("0 %")
    assert len(seen.paths) == asked


def test_the_answer_is_marked_where_the_service_says(server: Server, open_page: Open) -> None:
    question = "Who built the lighthouse?"
    body = {"question": question, "context": CONTEXT, "answers": 5, "no_answer_threshold": 1}
    answer = httpx.post(f"{server.url}/answer_question", json=body, timeout=HANG_SECONDS).json()
    page, _ = open_page(server.url, f"ask?context={quote(CONTEXT)}&question={quote(question)}&threshold=1")
    candidates = page.locator(".candidates button")
    expect(candidates).to_have_count(len(answer["answers"]))
    for candidate, button in zip(answer["answers"], candidates.all(), strict=True):
        button.click()
        if candidate["start"] is not None:
            expect(page.locator(".passage mark")).to_have_text(CONTEXT[candidate["start"] : candidate["end"]], use_inner_text=False)
    measured = get(f"{server.url}/info").json()["models"]["llm"]["metrics"]["squad2"]
    page.locator("#threshold").fill("0.6")
    at = next(point for point in measured["by_threshold"] if point["threshold"] == 0.6)
    said = f"it answered {at['answered']:.0f} % of {measured['questions']} held-out questions"
    expect(page.locator(".at-threshold")).to_contain_text(said)
    page.locator("#threshold").fill("0")
    expect(page.locator(".verdict")).to_have_text("Not in this passage")
    expect(page.locator(".passage mark")).to_have_count(0)


def test_a_guess_costs_what_the_rules_say(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url, "guess")
    guess = page.locator("#your-guess")
    page.locator("#sureness").fill("90")
    guess.fill("The")
    expect(page.get_by_role("button", name="Guess", exact=True)).to_be_enabled()
    guess.press("Enter")
    said = re.compile(r"You said “The”. It was the. You and the bigram’s share gave it 9\d %, which is 0\.[12] bits.")
    expect(page.locator(".reveal")).to_contain_text(said)
    for _ in range(7):
        page.get_by_role("button", name="No idea").click()
    expect(page.locator(".verdict")).to_contain_text("beat")
    bits = {
        name: float(value)
        for name, value in zip(*(page.locator(f".board .{part}").all_inner_texts() for part in ("word", "number")), strict=True)
    }
    assert set(bits) == {"You", "Bigram", "LSTM", "LLM"}
    assert list(bits.values()) == sorted(bits.values())


def test_the_models_are_those_of_info(server: Server, open_page: Open) -> None:
    info = get(f"{server.url}/info").json()
    page, _ = open_page(server.url, "models")
    for model in MODELS:
        card = page.locator(f".model-card.{model}")
        expect(card).to_contain_text(info["models"][model]["tag"])
        expect(card).to_contain_text(f"{info['models'][model]['metrics']['bits_per_byte']:.2f}")
    expect(page.get_by_role("heading", name="How the LLM learned to answer")).to_be_visible()
    expect(page.locator(".comparison .bars").first.locator("li")).to_have_count(len(info["comparison"]["models"]))


def test_the_address_restores_the_view_and_the_same_request_can_be_copied(server: Server, open_page: Open) -> None:
    page, _ = open_page(server.url)
    page.locator("textarea").fill("A ship & a “light” at 100 % #1")
    expect(page.locator(".surprise-row.llm .strip")).to_have_text("A ship & a “light” at 100 % #1")
    page.get_by_role("button", name="Share").click()
    address = page.locator("#share-link").input_value()
    tags = parse_qs(urlsplit(address).fragment.partition("?")[2])["models"]
    assert tags == [",".join(model["tag"] for model in get(f"{server.url}/info").json()["models"].values())]
    other, _ = open_page(address.partition("/ui")[0], address.partition("#")[2])
    expect(other.locator("textarea")).to_have_value("A ship & a “light” at 100 % #1")
    other.locator("textarea").fill("The last keys, and at once the button")
    other.get_by_role("button", name="Share").click()
    assert "at+once+the+button" in other.locator("#share-link").input_value()
    expect(other.locator(".foreign")).to_have_count(0)

    command = page.locator("dialog pre").inner_text()
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed)["choices"][0]["text"] == "A ship & a “light” at 100 % #1"
    page.get_by_role("button", name="Python").click()
    compile(page.locator("dialog pre").inner_text(), "snippet", "exec")
    width = page.locator("dialog img").evaluate("async image => (await image.decode(), image.naturalWidth)")
    assert width == 1200


@pytest.mark.parametrize("view", ["surprise", "race"])
def test_an_address_of_other_models_says_so(server: Server, open_page: Open, view: str) -> None:
    page, _ = open_page(server.url, f"{view}?models=a:1,b:2,c:3")
    expect(page.locator(".foreign")).to_contain_text("a:1, b:2, c:3")
