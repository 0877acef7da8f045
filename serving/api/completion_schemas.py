"""The bodies of `/v1`: OpenAI's completions (https://platform.openai.com/docs/api-reference/completions), as far as they have an effect."""

from typing import Annotated, Any, Literal, get_args

import bentoml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from models.base import FinishReason
from serving.api.schemas import AnyInteger, Int64, RequestBody, Seed, StreamFinishReason
from serving.problems import Problem, invalid_field

ModelName = TypeAliasType("ModelName", Literal["bigram", "rnn", "llm"])
PROMPTS, CHOICES = 16, 8
"""Prompts of a request, and texts for each, at most."""

DONE = "[DONE]"
"""The `data` of a stream's last event, as OpenAI's clients expect."""

Text = Annotated[str, Field(min_length=1, max_length=20_000)]
Ids = Annotated[list[Annotated[int, Field(ge=0), AnyInteger]], Field(min_length=1, max_length=20_000)]
LogProbability = TypeAliasType("LogProbability", float)
TokenLogprobs = TypeAliasType("TokenLogprobs", dict[str, LogProbability])
StopString = Annotated[str, Field(min_length=1)]
Prompt = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=PROMPTS)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=PROMPTS)]
)


_KINDS = {
    "prompt": f"it must be a text that is not empty, or up to {PROMPTS} of them, or for the llm ids of its tokenizer, or such lists",
    "stop": "it must be a text that is not empty, or up to 8 of them",
}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = Field(False, description="Send the usage in a last event of its own, without choices, as OpenAI does.")


class CompletionRequest(RequestBody):
    """What to complete, and how. Parameters of OpenAI's that are not listed would have no effect and are refused."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "llm", "prompt": "The", "max_tokens": 20},
                {"model": "bigram", "prompt": ["The light", "A ship"], "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0},
            ],
            "dependentSchemas": {
                "stream_options": {
                    "anyOf": [
                        {"properties": {"stream": {"const": True}}, "required": ["stream"]},
                        {"properties": {"stream_options": {"type": "null"}}},
                    ]
                }
            },
        }
    )

    model: ModelName = Field(description="Which model completes.", examples=["llm"])
    prompt: Prompt = Field(
        description="The text to continue, or several; the llm also takes ids of its tokenizer, a list for each text.", examples=["The"]
    )
    max_tokens: Annotated[int, Field(ge=0, le=1_024), AnyInteger] | None = Field(
        16, description="New tokens at most; 0 with `echo` reads the prompt alone."
    )
    temperature: float | None = Field(1, ge=0, le=2, description="0 takes the most probable token each time.")
    top_p: float | None = Field(1, gt=0, le=1, description="Sample among the most probable tokens that together reach this probability.")
    n: Annotated[int, Field(ge=1, le=CHOICES), AnyInteger] | None = Field(1, description="How many texts for each prompt.")
    stop: StopString | Annotated[list[StopString], Field(max_length=8)] | None = Field(
        None, description="The text ends before the first of these strings."
    )
    seed: Seed | None = Field(None, description="Same seed, same text (the llm's: with TRIGEN_REPRODUCIBLE).")
    echo: bool | None = Field(False, description="Begin each text with its prompt.")
    logprobs: Annotated[int, Field(ge=0, le=5), AnyInteger] | None = Field(
        None,
        description="Tell the log-probability of each token, under `echo` of the prompt's too, and of so many alternatives.",
    )
    stream: bool | None = Field(False, description="Answer with Server-Sent Events, each a CompletionChunk, and `[DONE]` in the end.")
    stream_options: StreamOptions | None = Field(None, description="Goes with `stream`.")

    @field_validator("stream_options")
    @classmethod
    def goes_with_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        """Refuse what would have no effect."""
        if options and not info.data.get("stream"):
            raise PydanticCustomError("no_effect", "has an effect only where stream is true")
        return options

    @classmethod
    def problem(cls, error: ValidationError) -> Problem:
        """See `RequestBody`. To ask for a model that is not there is 404, as OpenAI has it. A field that can be of several kinds is wrong
        once, not once for each of them.
        """
        for fault in error.errors(include_url=False):
            if fault["loc"] == ("model",) and isinstance(fault["input"], str):
                return no_such_model(fault["input"])
            if len(fault["loc"]) > 1 and (wanted := _KINDS.get(str(fault["loc"][0]))):
                return invalid_field(str(fault["loc"][0]), wanted, "wrong_kind")
        return super().problem(error)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, however many there are."""
        prompt: Any = self.prompt
        return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]

    @property
    def texts(self) -> int:
        """See `RequestBody`."""
        return len(self.prompts) * (self.n or 1)


class Logprobs(BaseModel):
    """Of each token in its place, in lists of the same length."""

    tokens: list[str] = Field(description="The tokens; one that is no whole character, as the vocabulary spells it.")
    token_logprobs: list[float | None] = Field(
        description="Natural logarithms of their probabilities, before temperature and top_p; null where nothing stands before."
    )
    top_logprobs: list[TokenLogprobs | None] = Field(description="The token and the most probable alternatives, with theirs.")
    text_offset: list[int] = Field(description="Where each token begins in the text, in characters.")


class CompletionChoice(BaseModel):
    """One text."""

    index: int = Field(description="Which: the texts of the first prompt come first.")
    text: str = Field(description="The text, after the prompt under `echo`.")
    logprobs: Logprobs | None = Field(description="If they were asked for.")
    finish_reason: FinishReason = Field(description="`length`: max_tokens; `stop`: the model or a stop string ended it.")


class Usage(BaseModel):
    """Tokens of the model."""

    prompt_tokens: int = Field(description="Of the prompts.")
    completion_tokens: int = Field(description="Generated, those that end a text included.")
    total_tokens: int = Field(description="Both.")


class Completion(bentoml.IODescriptor):
    """The texts."""

    id: str = Field(description="Of this completion.", examples=["cmpl-0af7651916cd43dd"])
    object: Literal["text_completion"]
    created: Int64 = Field(description="Unix time.", examples=[1_750_000_000])
    model: ModelName = Field(description="The model.")
    system_fingerprint: str = Field(description="The model's tag in the store.", examples=["trigen-llm:tc7d73xigwudqax4"])
    choices: list[CompletionChoice] = Field(description="A text for each prompt and each of `n`.")
    usage: Usage = Field(description="What was read and written.")


class OpenAIError(BaseModel):
    """What is wrong, as OpenAI has it."""

    message: str = Field(description="What is wrong, and what to do.", examples=["temperature: Input should be less than or equal to 2"])
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"] = Field(description="Whose fault it is.")
    param: str | None = Field(description="Which field is wrong, if one is.", examples=["temperature"])
    code: str | None = Field(description="What kind of fault it is.", examples=["less_than_equal"])
    request_id: str = Field(description="The request, as the header `X-Request-ID` and the service's log name it.")


class ErrorResponse(BaseModel):
    """An error of `/v1`."""

    error: OpenAIError


class ChunkChoice(BaseModel):
    """A piece of one text."""

    index: int = Field(description="Which text.")
    text: str = Field(description="What comes next of it.")
    logprobs: Logprobs | None = Field(description="Of the tokens that came, if they were asked for.")
    finish_reason: StreamFinishReason | None = Field(
        description="With a text's last piece: as in CompletionChoice, or `cancelled`: the service stopped; `error`: see the chunk's."
    )


class CompletionChunk(BaseModel):
    """The `data` of an event of a stream. The last one before `[DONE]` has the usage: a stream without it was cut off."""

    id: str = Field(description="Of the completion.")
    object: Literal["text_completion"]
    created: Int64 = Field(description="Unix time.")
    model: ModelName = Field(description="The model.")
    system_fingerprint: str = Field(description="The model's tag in the store.")
    choices: list[ChunkChoice] = Field(description="Pieces of texts.")
    usage: Usage | None = Field(description="In the last chunk: what was read and written.")
    error: OpenAIError | None = Field(None, description="In the last chunk, if something went wrong: what.")


class Model(BaseModel):
    """A model that completes."""

    id: ModelName = Field(description="Its name.")
    object: Literal["model"]
    created: Int64 = Field(description="Unix time of its registration.")
    owned_by: str = Field(description="Its tag in the store.", examples=["trigen-llm:tc7d73xigwudqax4"])


class ModelList(BaseModel):
    """The models that complete."""

    object: Literal["list"]
    data: list[Model] = Field(description="The models.")


def no_such_model(name: str) -> Problem:
    """404."""
    names = ", ".join(get_args(ModelName.__value__))
    message = f"there is no model {name!r}: take one of {names}"
    return Problem(404, message, [{"loc": ["model"], "msg": message, "type": "model_not_found"}])
