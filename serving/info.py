"""What `GET /info` tells."""

from collections.abc import Mapping
from typing import Any

from bentoml import Model

from serving.schemas import AnswerRequest, GenerateRequest
from serving.settings import Settings

SHOWN = ("base_model", "dataset", "metrics", "seed", "git_commit")
"""The metadata of a model that clients see."""


def describe(stored: Mapping[str, Model], context_length: int, settings: Settings) -> dict[str, Any]:
    """Of each model its tag, base model, data set and metrics; the comparison on the same held-out text, of the run that made the LLM; and
    the limits of a request.

    `context_length` is the LLM's, in tokens.
    """
    models: dict[str, dict[str, Any]] = {}
    for name, model in stored.items():
        metadata = dict(model.info.metadata)
        models[name] = {"tag": str(model.tag)} | {key: metadata[key] for key in SHOWN if key in metadata}
    limits = {
        "length": _bounds(GenerateRequest, "length", "minimum", "maximum"),
        "start_word_characters": _bounds(GenerateRequest, "start_word", "minLength", "maxLength"),
        "question_characters": _bounds(AnswerRequest, "question", "minLength", "maxLength"),
        "context_characters": _bounds(AnswerRequest, "context", "minLength", "maxLength"),
        "context_tokens": context_length,
        "answer_tokens": settings.answer_length,
        "body_bytes": settings.max_body_bytes,
    }
    return {"models": models, "comparison": dict(stored["llm"].info.metadata).get("comparison", {}), "limits": limits}


def _bounds(schema: type[GenerateRequest] | type[AnswerRequest], field: str, low: str, high: str) -> list[int]:
    properties = schema.model_json_schema()["properties"][field]
    return [properties[low], properties[high]]
