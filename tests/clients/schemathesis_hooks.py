"""For `schemathesis run`: what no schema can say of ids.

Which ids there are depends on the llm that is served (1,000 in the tests), and the word models have none: other ids are rightly refused.
So valid ids become those of the llm that is served. Everything else, and every body that is wrong, is left alone.
"""

from typing import Any

import schemathesis

VOCABULARY = 1000


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Make valid ids those of a model that is there."""
    if not isinstance(body, dict) or "prompt" not in body:
        return body
    prompt = body["prompt"]
    if _are_ids(prompt):
        prompt = [int(id) % VOCABULARY for id in prompt]
    elif isinstance(prompt, list) and prompt and all(_are_ids(each) for each in prompt):
        prompt = [[int(id) % VOCABULARY for id in each] for each in prompt]
    else:
        return body
    return body | {"prompt": prompt} | ({"model": "llm"} if body.get("model") in ("bigram", "rnn") else {})


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) in (int, float) and id >= 0 and id == int(id) for id in value)
