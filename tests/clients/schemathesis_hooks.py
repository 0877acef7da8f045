"""Hooks for `schemathesis run`: they replace token ids by ids that the served model has, and time limits by one that no request reaches.

A schema cannot say which ids are valid: that depends on the LLM's vocabulary (1,000 tokens in the tests), and the word models take no ids.
A short time limit gives 504, which schemathesis takes for a failure. The hooks change valid values only, so that every invalid one reaches
the service.
"""

from typing import Any

import schemathesis

VOCABULARY = 1000


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Replace well-formed ids by ids of the LLM."""
    if not isinstance(body, dict) or "prompt" not in body:
        return body
    prompt = body["prompt"]
    if _are_ids(prompt):
        prompt = [int(id) % VOCABULARY for id in prompt]
    elif isinstance(prompt, list) and prompt and all(_are_ids(ids) for ids in prompt):
        prompt = [[int(id) % VOCABULARY for id in ids] for ids in prompt]
    else:
        return body
    return body | {"prompt": prompt} | ({"model": "llm"} if body.get("model") in ("bigram", "rnn") else {})


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:
    """Replace a valid time limit by an hour."""
    try:
        is_valid = float(case.headers["X-Request-Timeout"]) > 0
    except (KeyError, TypeError, ValueError):
        return
    if is_valid:
        case.headers["X-Request-Timeout"] = "3600"


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) in (int, float) and id >= 0 and id == int(id) for id in value)
