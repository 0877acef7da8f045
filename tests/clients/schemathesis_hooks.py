"""A hook for `schemathesis run` that replaces token ids by ids that the served model has.

A schema cannot say which ids are valid: that depends on the LLM's vocabulary (1,000 tokens in the tests), and the word models take no ids.
The hook changes well-formed ids only, so that every invalid body reaches the service.
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


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) in (int, float) and id >= 0 and id == int(id) for id in value)
