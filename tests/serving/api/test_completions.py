"""`/v1/completions` and `/v1/models` for all three models: every accepted parameter has an effect, and all others are refused."""

from typing import Any

import numpy as np
import pytest

from models.bigram import Bigram
from models.engines.tokenization import load_tokenizer
from models.rnn import LSTM
from models.words import BOUNDARY, UNKNOWN, tokenize
from tests.client import MODELS, check_error, complete, get, post, stream_events
from tests.conftest import Server, Trained
from tests.contract import check_response

HOT = {"temperature": 2, "max_tokens": 20, "seed": 5}


def text_of(completion: dict[str, Any]) -> str:
    (choice,) = completion["choices"]
    return str(choice["text"])


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_are_those_of_openai(server: Server, model: str) -> None:
    completion = complete(server, model)
    assert completion["object"] == "text_completion"
    assert completion["model"] == model
    assert completion["system_fingerprint"].startswith(f"trigen-{model}:")
    usage = completion["usage"]
    assert usage["completion_tokens"] == 16 or completion["choices"][0]["finish_reason"] == "stop"
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize("model", MODELS)
def test_a_seed_repeats_its_texts_and_the_second_text_uses_the_next_seed(server: Server, model: str) -> None:
    two = complete(server, model, n=2, **HOT)["choices"]
    assert [choice["index"] for choice in two] == [0, 1]
    assert two == complete(server, model, n=2, **HOT)["choices"]
    assert two[0]["text"] != two[1]["text"]
    assert two[1]["text"] == text_of(complete(server, model, **HOT | {"seed": 6}))


@pytest.mark.parametrize("model", MODELS)
def test_sampling_parameters_have_an_effect(server: Server, model: str) -> None:
    greedy = {text_of(complete(server, model, temperature=0, seed=seed)) for seed in range(3)}
    assert len(greedy) == 1
    assert {text_of(complete(server, model, top_p=1e-6, seed=seed)) for seed in range(3)} == greedy
    assert len({text_of(complete(server, model, **HOT | {"seed": seed})) for seed in range(3)}) > 1
    assert complete(server, model, max_tokens=3)["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize("model", MODELS)
def test_several_prompts_are_completed_in_order(server: Server, model: str) -> None:
    prompts = ["The light", "A ship", "In the year"]
    many = complete(server, model, prompt=prompts, n=2, echo=True, **HOT)
    texts = [choice["text"] for choice in many["choices"]]
    assert [choice["index"] for choice in many["choices"]] == list(range(6))
    assert all(text.startswith(prompts[index // 2]) for index, text in enumerate(texts))
    assert texts[2] == text_of(complete(server, model, prompt=prompts[1], echo=True, **HOT | {"seed": 7}))
    single = sum(complete(server, model, prompt=prompt)["usage"]["prompt_tokens"] for prompt in prompts)
    assert many["usage"]["prompt_tokens"] == single


@pytest.mark.parametrize("model", MODELS)
def test_a_text_ends_before_a_stop_string(server: Server, model: str) -> None:
    for seed in range(20):  # until a text is long enough to contain a stop string
        parameters = HOT | {"seed": seed, "logprobs": 0}
        whole = text_of(complete(server, model, **parameters))
        if len(whole) > 8:
            break
    word = whole[3:6]
    for stop in (word, ["no such text", word]):
        (choice,) = complete(server, model, stop=stop, **parameters)["choices"]
        assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(word)], "stop")
        assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])


@pytest.mark.parametrize("model", MODELS)
def test_streamed_logprobs_end_with_the_text_at_a_stop_string(server: Server, model: str) -> None:
    for seed in range(20):  # until a text is long enough to contain a stop string
        parameters = HOT | {"seed": seed, "logprobs": 1, "echo": True}
        whole = text_of(complete(server, model, **parameters)).removeprefix("The light")
        if len(whole) > 12:
            break
    for stop in (whole[3:6], whole[1:9], whole[-3:]):  # within a token, over several tokens, at the end
        (expected,) = complete(server, model, stop=stop, **parameters)["choices"]
        pieces = [
            piece
            for chunk in stream_events(server, "/v1/completions", {"model": model, "prompt": "The light", "stop": stop} | parameters)
            for piece in chunk["choices"]
        ]
        sent, tokens, offsets = "", list[str](), list[int]()
        for piece in pieces:
            sent += piece["text"]
            if piece["logprobs"]:
                tokens += piece["logprobs"]["tokens"]
                offsets += piece["logprobs"]["text_offset"]
            assert all(offset < len(sent) for offset in offsets)
        assert (sent, tokens, offsets) == (expected["text"], expected["logprobs"]["tokens"], expected["logprobs"]["text_offset"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_has_a_bounded_number_of_logprobs(server: Server, stream: bool) -> None:
    body = {"model": "bigram", "prompt": "The light", "max_tokens": 1024, "n": 8, "logprobs": 5, "stream": stream}
    fits = post(server, "/v1/completions", body | {"prompt": ["The light"] * 2})
    assert fits.status_code == 200
    for wrong in ({"prompt": ["The light"] * 3}, {"prompt": ["The light"] * 2, "echo": True}):
        refused = post(server, "/v1/completions", body | wrong)
        check_error(refused, 400, param="logprobs", code="too_many_scored_tokens")
        assert "lower n or max_tokens" in refused.json()["error"]["message"]


@pytest.mark.parametrize("model", MODELS)
def test_logprobs_list_each_token_and_its_alternatives(server: Server, model: str) -> None:
    (choice,) = complete(server, model, temperature=0, max_tokens=8, logprobs=2, echo=True)["choices"]
    logprobs = choice["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"])
    for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[token] == logprob <= 0
        assert 2 <= len(top) <= 3
    assert logprobs["text_offset"][0] == 0
    if model != "llm":  # the LLM's tokens may be parts of characters
        assert "".join(logprobs["tokens"]) == choice["text"]
        ends = [*logprobs["text_offset"][1:], len(choice["text"])]
        spans = [choice["text"][start:end] for start, end in zip(logprobs["text_offset"], ends, strict=True)]
        assert spans == logprobs["tokens"]
    (without,) = complete(server, model, temperature=0, max_tokens=8, echo=True)["choices"]
    assert (without["text"], without["logprobs"]) == (choice["text"], None)


@pytest.mark.parametrize("model", ["bigram", "rnn"])
def test_a_generated_word_has_the_same_logprob_as_a_word_of_the_prompt(server: Server, model: str) -> None:
    # Greedy, because at a high temperature words may run into one another.
    (written,) = complete(server, model, logprobs=1, echo=True, temperature=0)["choices"]
    read = complete(server, model, prompt=written["text"], max_tokens=0, echo=True, logprobs=1)
    assert read["choices"][0]["text"] == written["text"]
    assert read["choices"][0]["logprobs"] == written["logprobs"]
    assert read["usage"]["completion_tokens"] == 0


def test_the_logprob_of_an_unknown_word_includes_its_spelling(server: Server) -> None:
    short, long = (
        complete(server, "bigram", prompt=f"The {word}", max_tokens=0, echo=True, logprobs=0)["choices"][0]["logprobs"]
        for word in ("zzyzx", "zzyzxzzyzxzzyzx")
    )
    assert short["token_logprobs"][0] == long["token_logprobs"][0]
    assert long["token_logprobs"][1] < short["token_logprobs"][1] < -10


def test_prompt_logprobs_are_those_of_the_model(server: Server, trained: Trained) -> None:
    prompt = "The light of the sea was the first."
    for name, kind, tolerance in (("bigram", Bigram, 1e-4), ("rnn", LSTM, 0.05)):  # the LSTM's weights are rounded to int8
        loaded = kind.load(trained.output / name)
        known = loaded.vocabulary.encode(tokenize(prompt))
        assert UNKNOWN not in known
        expected = loaded.logprobs(np.array([BOUNDARY, *known]))
        (choice,) = complete(server, name, prompt=prompt, max_tokens=0, echo=True, logprobs=0)["choices"]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(list(expected), abs=tolerance)


def test_token_ids_are_used_as_they_are(server: Server, trained: Trained) -> None:
    for prompt in ([5, 6, 7], [[5, 6, 7]]):
        completion = complete(server, prompt=prompt, max_tokens=2, logprobs=1, echo=True, temperature=0)
        assert completion["usage"]["prompt_tokens"] == 3
        logprobs = completion["choices"][0]["logprobs"]
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        assert all(logprob < 0 for logprob in logprobs["token_logprobs"][1:])
    tokenizer = load_tokenizer(trained.output / "llm")
    start = tokenizer.token_to_id("<|endoftext|>")  # a text gets it, ids do not
    as_text = complete(server, prompt="The light", max_tokens=8, temperature=0, logprobs=0)
    as_ids = complete(server, prompt=[start, *tokenizer.encode("The light").ids], max_tokens=8, temperature=0, logprobs=0)
    assert as_ids["choices"][0]["logprobs"]["tokens"] == as_text["choices"][0]["logprobs"]["tokens"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("separate_usage", [False, True])
def test_a_stream_is_the_completion_in_pieces(server: Server, model: str, separate_usage: bool) -> None:
    parameters = {"prompt": ["The light", "A ship"], "n": 2, "echo": True, "logprobs": 1, **HOT}
    whole = complete(server, model, **parameters)
    options = {"stream_options": {"include_usage": True}} if separate_usage else {}
    chunks = stream_events(server, "/v1/completions", {"model": model} | parameters | options)
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        pieces = [piece for chunk in chunks for piece in chunk["choices"] if piece["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            streamed = [value for piece in pieces if piece["logprobs"] for value in piece["logprobs"][name]]
            if name in ("tokens", "text_offset"):
                assert streamed == values
            else:  # the LLM rounds differently for pieces of another length
                values, streamed = (
                    [[*each.values()] if isinstance(each, dict) else [each] for each in part] for part in (values, streamed)
                )
                assert [pytest.approx(each, abs=1e-4) for each in values] == streamed
    assert [chunk["usage"] for chunk in chunks] == [None] * (len(chunks) - 1) + [whole["usage"]]
    assert (chunks[-1]["choices"] == []) is separate_usage


REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: value}) for name, value in (("suffix", "x"), ("best_of", 2), ("presence_penalty", 1), ("frequency_penalty", 1))),
    *((name, {name: value}) for name, value in (("logit_bias", {"50256": -100}), ("user", "somebody"), ("top_k", 5))),
    *((name, {name: value}) for name, value in (("max_tokens", -1), ("temperature", 3), ("top_p", 0), ("n", 9), ("logprobs", 6))),
    *((name, {name: value}) for name, value in (("seed", -1), ("stop", ""), ("stop", 3), ("echo", "yes"), ("prompt", ""), ("prompt", []))),
    *((name, {name: value}) for name, value in (("prompt", ["x"] * 17), ("prompt", [5, "x"]), ("prompt", [10**6]), ("prompt", [-1]))),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options", {"stream": True, "stream_options": {"include_obfuscation": True}}),
    ("prompt", {"model": "bigram", "prompt": [5, 6]}),
    ("prompt", {"prompt": "¶" * 2000, "stream": True}),
]


@pytest.mark.parametrize(("field", "body"), REFUSED)
def test_a_field_that_is_wrong_or_has_no_effect_is_refused_by_name(server: Server, field: str, body: dict[str, Any]) -> None:
    response = post(server, "/v1/completions", {"model": "llm", "prompt": "The"} | body)
    check_error(response, 400, param=field)
    message = response.json()["error"]["message"]
    assert field in message
    assert not [word for word in ("constrained", "function", "Value error") if word in message]


def test_an_unknown_model_is_refused(server: Server) -> None:
    check_error(post(server, "/v1/completions", {"model": "gpt-4", "prompt": "The"}), 404, param="model", code="model_not_found")
    check_error(get(f"{server.url}/v1/models/gpt-4"), 404, param="model", code="model_not_found")
    check_error(post(server, "/v1/completions", {"prompt": "The"}), 400, param="model")


def test_null_means_the_default(server: Server) -> None:
    optional = ("max_tokens", "top_p", "n", "stop", "echo", "logprobs", "stream", "stream_options")
    parameters: dict[str, Any] = {"temperature": 0, "seed": None}
    assert complete(server, **parameters | dict.fromkeys(optional))["choices"] == complete(server, **parameters)["choices"]


def test_the_models_are_listed(server: Server) -> None:
    response = get(f"{server.url}/v1/models")
    check_response(response)
    listed = response.json()["data"]
    assert [model["id"] for model in listed] == MODELS
    for model in listed:
        one = get(f"{server.url}/v1/models/{model['id']}")
        check_response(one)
        assert one.json() == model
