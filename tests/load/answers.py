"""Read an answer in one shape, streamed or not, and compare it with that of a lone run."""

import json
import math
from dataclasses import dataclass
from typing import Any

from tests.load.mix import LoadRequest

MAX_LOGPROB_DIFFERENCE = 0.1
"""Between the log-probabilities of one text in two batches of the LLM, which rounds differently in each."""


class WrongAnswer(Exception):
    """The answer is not that of a lone run, or has the wrong shape."""


@dataclass(frozen=True)
class Answer:
    """The status of an answer, and its content if that is 200. The status of a stream is that of the error that ended it, if any."""

    status: int
    content: Any = None


def read_answer(request: LoadRequest, status: int, body: bytes) -> Answer:
    """Return the content of a body: the text with its finish reason and counts, or the bytes. Raises WrongAnswer."""
    if status != 200:
        return Answer(status)
    if request.path == "/metrics":
        if not body.startswith(b"# HELP") or not body.endswith(b"\n"):
            raise WrongAnswer("no metrics")
        return Answer(status)
    if request.body is None:
        return Answer(status, body)
    if request.path == "/v1/completions":
        return _stream_of_completion(body) if request.stream else Answer(status, _completion(json.loads(body)))
    if request.stream:
        return _native_stream(request.body["start_word"], body)
    return Answer(status, {name: value for name, value in json.loads(body).items() if name != "model"})


def _events(body: bytes) -> list[bytes]:
    if not body.endswith(b"\n\n"):
        raise WrongAnswer(f"a stream was cut off: …{body[-80:]!r}")
    return [line.removeprefix(b"data: ") for line in body.split(b"\n\n")[:-1] if not line.startswith(b":")]


def _native_stream(start: str, body: bytes) -> Answer:
    events = [json.loads(event) for event in _events(body)]
    last = events[-1]
    if last.get("finish_reason") == "error":
        return Answer(last["problem"]["status"])
    if last.get("finish_reason") not in ("length", "stop"):
        raise WrongAnswer(f"a stream ended with {last}")
    text = start + "".join(event["text"] for event in events)
    return Answer(200, {"generated_text": text} | {name: last[name] for name in ("finish_reason", "new_tokens", "seed")})


def _completion(completion: dict[str, Any]) -> dict[str, Any]:
    choices = [{name: value for name, value in choice.items() if name != "index"} for choice in completion["choices"]]
    if [choice["index"] for choice in completion["choices"]] != list(range(len(choices))):
        raise WrongAnswer("the choices are out of order")
    return {"choices": choices, "usage": completion["usage"]}


def _stream_of_completion(body: bytes) -> Answer:
    *events, done = _events(body)
    if done != b"[DONE]":
        raise WrongAnswer(f"a stream ended with {done!r}")
    choices: dict[int, dict[str, Any]] = {}
    chunks = [json.loads(event) for event in events]
    if error := chunks[-1].get("error"):
        return Answer(504 if error["code"] == "timeout" else 500)
    for piece in (piece for chunk in chunks for piece in chunk["choices"]):
        choice = choices.setdefault(piece["index"], {"text": "", "logprobs": None, "finish_reason": None})
        choice["text"] += piece["text"]
        choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
        if piece["logprobs"]:
            so_far = choice["logprobs"] or {name: [] for name in piece["logprobs"]}
            choice["logprobs"] = {name: so_far[name] + values for name, values in piece["logprobs"].items()}
    return Answer(200, {"choices": [choices[index] for index in sorted(choices)], "usage": chunks[-1]["usage"]})


def check(request: LoadRequest, content: Any, lone: Any, *, exact: bool) -> None:
    """Compare an answer with that of a lone run. The LLM's texts may differ unless `exact`. Raises WrongAnswer."""
    if request.model != "llm" or exact:
        if content != lone:
            raise WrongAnswer(f"{_shortened(content)} instead of {_shortened(lone)}")
    elif request.path == "/answer_question":
        _check_answer(request, content)
    elif request.path == "/v1/completions":
        _check_completion(request, content, lone)
    else:
        _check_text(request, content)


def _check_answer(request: LoadRequest, content: dict[str, Any]) -> None:
    assert request.body
    start, end = content["start"], content["end"]
    if start is not None and request.body["context"][start:end] != content["answer"]:
        raise WrongAnswer(f"an answer from another passage: {_shortened(content)}")


def _check_text(request: LoadRequest, content: dict[str, Any]) -> None:
    assert request.body
    if not content["generated_text"].startswith(request.body["start_word"]) or content["seed"] != request.body["seed"]:
        raise WrongAnswer(f"the text of another request: {_shortened(content)}")
    _check_count(content["new_tokens"], request.body["length"], [content["finish_reason"]])


def _check_completion(request: LoadRequest, content: dict[str, Any], lone: dict[str, Any]) -> None:
    assert request.body
    choices = content["choices"]
    if len(choices) != len(lone["choices"]) or content["usage"]["prompt_tokens"] != lone["usage"]["prompt_tokens"]:
        raise WrongAnswer(f"{len(choices)} choices and {content['usage']}")
    prompts = [prompt for prompt in request.prompts for _ in range(request.body.get("n") or 1)]
    for choice, lone_choice, prompt in zip(choices, lone["choices"], prompts, strict=True):
        if request.body.get("echo") and not choice["text"].startswith(prompt):
            raise WrongAnswer(f"the text of another prompt: {_shortened(choice)}")
        if request.body.get("logprobs") and not _close(choice["logprobs"], lone_choice["logprobs"]):
            raise WrongAnswer(f"the log-probabilities of another text: {_shortened(choice)} instead of {_shortened(lone_choice)}")
    longest = request.body["max_tokens"] * len(choices)
    _check_count(content["usage"]["completion_tokens"], longest, [choice["finish_reason"] for choice in choices])


def _check_count(tokens: int, requested: int, reasons: list[str]) -> None:
    if tokens != requested if set(reasons) == {"length"} else not 0 < tokens <= requested:
        raise WrongAnswer(f"{tokens} tokens instead of {requested}, ended by {set(reasons)}")


def _close(logprobs: dict[str, list[Any]], lone: dict[str, list[Any]]) -> bool:
    if logprobs["tokens"] != lone["tokens"]:
        return False
    pairs = zip(logprobs["token_logprobs"], lone["token_logprobs"], strict=True)
    return all(a is b is None or math.isclose(a, b, abs_tol=MAX_LOGPROB_DIFFERENCE) for a, b in pairs)


def _shortened(content: Any) -> str:
    text = repr(content)
    return text if len(text) < 300 else f"{text[:200]}…{text[-80:]}"
