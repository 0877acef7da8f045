"""What `GET /info` and `GET /v1/models` tell."""

from collections.abc import Mapping
from typing import Any

from bentoml import Model as StoredModel
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from serving import __version__
from serving.api.completion_schemas import Model, ModelList, ModelName, no_such_model
from serving.api.schemas import AnswerRequest, GenerateRequest
from serving.settings import Settings

Bounds = list[int]
"""The least and the most."""
Metadata = TypeAliasType("Metadata", dict[str, Any])
"""What a training run says of a model."""


class ModelInfo(BaseModel):
    """How a model was made, and what it reached; what its metadata lack is null."""

    tag: str = Field(description="Its tag in the store.", examples=["trigen-llm:tc7d73xigwudqax4"])
    base_model: str | None = Field(None, description="What was fine-tuned.")
    dataset: Metadata | None = Field(None, description="What it learned from.")
    metrics: Metadata | None = Field(None, description="What it reached.")
    seed: int | None = Field(None, description="Of the training.")
    git_commit: str | None = Field(None, description="Of the code that trained it.")


class Models(BaseModel):
    """The models that are served."""

    bigram: ModelInfo
    rnn: ModelInfo
    llm: ModelInfo


class Limits(BaseModel):
    """The bounds of a request: the least and the most, or the most."""

    length: Bounds = Field(description="New tokens of a text.")
    start_word_characters: Bounds = Field(description="A prompt's.")
    question_characters: Bounds = Field(description="A question's.")
    context_characters: Bounds = Field(description="A passage's.")
    context_tokens: int = Field(description="The LLM's, of prompt and new text together.")
    answer_tokens: int = Field(description="Of an answer of `/answer_question`.")
    body_bytes: int = Field(description="A request's; what goes beyond is refused with 413.")
    texts: int = Field(description="Under way at once; what goes beyond is refused with 429.")
    timeout_seconds: int = Field(description="In which a request must be answered; else it is given up with 504.")


class Info(BaseModel):
    """What is served."""

    version: str = Field(description="Of this service.", examples=[__version__])
    models: Models
    comparison: Metadata = Field(description="All models on the same held-out text, of the run that made the LLM.")
    limits: Limits


def describe(stored: Mapping[ModelName, StoredModel], context_length: int, settings: Settings) -> Info:
    """What is served; `context_length` is the LLM's, in tokens."""
    models: dict[str, ModelInfo] = {}
    for name, model in stored.items():
        metadata: dict[str, Any] = dict(model.info.metadata)
        shown = {key: metadata[key] for key in ModelInfo.model_fields if key in metadata}
        models[name] = ModelInfo(tag=str(model.tag), **shown)
    limits = Limits(
        length=_bounds(GenerateRequest, "length", "minimum", "maximum"),
        start_word_characters=_bounds(GenerateRequest, "start_word", "minLength", "maxLength"),
        question_characters=_bounds(AnswerRequest, "question", "minLength", "maxLength"),
        context_characters=_bounds(AnswerRequest, "context", "minLength", "maxLength"),
        context_tokens=context_length,
        answer_tokens=settings.answer_length,
        body_bytes=settings.max_body_bytes,
        texts=settings.max_texts,
        timeout_seconds=settings.timeout_seconds,
    )
    compared: dict[str, Any] = dict(stored["llm"].info.metadata)
    return Info(version=__version__, models=Models(**models), comparison=compared.get("comparison", {}), limits=limits)


def list_models(stored: Mapping[ModelName, StoredModel]) -> ModelList:
    """The models by the names that OpenAI's clients call them."""
    models = [
        Model(id=name, object="model", created=int(model.creation_time.timestamp()), owned_by=str(model.tag))
        for name, model in stored.items()
    ]
    return ModelList(object="list", data=models)


def find_model(stored: Mapping[ModelName, StoredModel], name: str) -> Model:
    """One of `list_models`. Raises `Problem`, 404."""
    for model in list_models(stored).data:
        if model.id == name:
            return model
    raise no_such_model(name)


def _bounds(schema: type[GenerateRequest] | type[AnswerRequest], field: str, low: str, high: str) -> Bounds:
    properties = schema.model_json_schema()["properties"][field]
    return [properties[low], properties[high]]
