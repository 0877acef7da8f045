"""The responses of `GET /info` and `GET /v1/models`."""

from collections.abc import Mapping
from typing import Any

from bentoml import Model as StoredModel
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from serving import __version__
from serving.api.completion_schemas import MAX_SCORED_TOKENS, Model, ModelList, ModelName, unknown_model
from serving.api.schemas import AnswerRequest, GenerateRequest
from serving.settings import Settings

Bounds = list[int]
"""The minimum and the maximum."""
Metadata = TypeAliasType("Metadata", dict[str, Any])
"""Part of the metadata that a training run stores with a model."""


class ModelInfo(BaseModel):
    """How a model was trained, and its metrics. A field that is missing from the model's metadata is null."""

    tag: str = Field(description="The model's tag in BentoML's model store.", examples=["trigen-llm:tc7d73xigwudqax4"])
    base_model: str | None = Field(None, description="The model that was fine-tuned.")
    dataset: Metadata | None = Field(None, description="The training data.")
    metrics: Metadata | None = Field(None, description="Metrics on held-out data.")
    seed: int | None = Field(None, description="The seed of the training run.")
    git_commit: str | None = Field(None, description="The commit of the training code.")


class Models(BaseModel):
    """The models of the service."""

    bigram: ModelInfo
    rnn: ModelInfo
    llm: ModelInfo


class Limits(BaseModel):
    """The limits of a request: [minimum, maximum], or the maximum alone."""

    length: Bounds = Field(description="Value of `length`: new tokens of one text.")
    start_word_characters: Bounds = Field(description="Characters in `start_word`.")
    question_characters: Bounds = Field(description="Characters in `question`.")
    context_characters: Bounds = Field(description="Characters in the `context` of `/answer_question`.")
    context_tokens: int = Field(description="The LLM's context length: tokens of the prompt and of the new text together.")
    answer_tokens: int = Field(description="Tokens in an answer of `/answer_question`.")
    body_bytes: int = Field(description="Bytes of a request body; a larger one is rejected with 413.")
    texts: int = Field(description="Texts that each model generates at once; those of further requests wait.")
    waiting_texts: int = Field(description="Texts that wait for each model; a request that would exceed this is rejected with 429.")
    scored_tokens: int = Field(description="Tokens with log-probabilities in one response of `/v1/completions`.")
    timeout_seconds: int = Field(description="Seconds until a request fails with 504.")


class Info(BaseModel):
    """The service: its version, models and limits."""

    version: str = Field(description="The version of the HTTP API.", examples=[__version__])
    models: Models
    comparison: Metadata = Field(description="Metrics of all models on the same held-out text, from the training run of the LLM.")
    limits: Limits


def describe(stored: Mapping[ModelName, StoredModel], context_length: int, settings: Settings) -> Info:
    """Return the response of `GET /info`. `context_length` is the LLM's context in tokens."""
    models: dict[str, ModelInfo] = {}
    for name, model in stored.items():
        metadata: dict[str, Any] = dict(model.info.metadata)
        fields = {key: metadata[key] for key in ModelInfo.model_fields if key in metadata}
        models[name] = ModelInfo(tag=str(model.tag), **fields)
    limits = Limits(
        length=_bounds(GenerateRequest, "length", "minimum", "maximum"),
        start_word_characters=_bounds(GenerateRequest, "start_word", "minLength", "maxLength"),
        question_characters=_bounds(AnswerRequest, "question", "minLength", "maxLength"),
        context_characters=_bounds(AnswerRequest, "context", "minLength", "maxLength"),
        context_tokens=context_length,
        answer_tokens=settings.answer_length,
        body_bytes=settings.max_body_bytes,
        texts=settings.max_texts,
        waiting_texts=settings.max_waiting,
        scored_tokens=MAX_SCORED_TOKENS,
        timeout_seconds=settings.timeout_seconds,
    )
    llm_metadata: dict[str, Any] = dict(stored["llm"].info.metadata)
    return Info(version=__version__, models=Models(**models), comparison=llm_metadata.get("comparison", {}), limits=limits)


def list_models(stored: Mapping[ModelName, StoredModel]) -> ModelList:
    """Return the response of `GET /v1/models`."""
    models = [
        Model(id=name, object="model", created=int(model.creation_time.timestamp()), owned_by=str(model.tag))
        for name, model in stored.items()
    ]
    return ModelList(object="list", data=models)


def find_model(models: ModelList, name: str) -> Model:
    """Return the response of `GET /v1/models/{name}`. Raises `Problem` (404)."""
    for model in models.data:
        if model.id == name:
            return model
    raise unknown_model(name)


def _bounds(request: type[GenerateRequest] | type[AnswerRequest], field: str, minimum: str, maximum: str) -> Bounds:
    schema = request.model_json_schema()["properties"][field]
    return [schema[minimum], schema[maximum]]
