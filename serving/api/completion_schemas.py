"""The bodies of `/v1`: the subset of OpenAI's completions API that has an effect here
(https://platform.openai.com/docs/api-reference/completions).
"""

from typing import Annotated, Any, Literal, get_args

import bentoml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from models.base import FinishReason
from serving.api.schemas import MAX_STOP_STRINGS, AnyInteger, Int64, RequestBody, Seed, StreamFinishReason
from serving.edge.escaping import printable
from serving.problems import Fault, Problem, invalid_field

ModelName = TypeAliasType("ModelName", Literal["bigram", "rnn", "llm"])
MAX_PROMPTS = 16
MAX_PROMPT_LENGTH = 20_000
"""In characters or token ids."""
MAX_CHOICES = 8
"""The maximum of `n`, the number of texts for each prompt."""
MAX_SCORED_TOKENS = 16_384
"""The maximum number of tokens with log-probabilities in one response, of all texts together: about 3 MB with five alternatives each."""
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default."""

DONE = "[DONE]"
"""The `data` of the event that ends a stream for OpenAI's clients."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_LENGTH)]
Ids = Annotated[list[Annotated[int, Field(ge=0), AnyInteger]], Field(min_length=1, max_length=MAX_PROMPT_LENGTH)]
LogProbability = TypeAliasType("LogProbability", float)
TokenLogprobs = TypeAliasType("TokenLogprobs", dict[str, LogProbability])
StopString = Annotated[str, Field(min_length=1)]
CompletionPrompt = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
)

_UNION_MESSAGES = {
    "prompt": f"Input should be a string of 1 to {MAX_PROMPT_LENGTH:,} characters, "
    f"a list of 1 to {MAX_PROMPT_LENGTH:,} token ids (llm only), "
    f"a list of 1 to {MAX_PROMPTS} such strings, or a list of 1 to {MAX_PROMPTS} such lists",
    "stop": f"Input should be a non-empty string or a list of up to {MAX_STOP_STRINGS} such strings",
}
"""One message for each field that accepts several types; pydantic would report an error for each of the types."""


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = Field(False, description="Send the usage in a separate last chunk without choices, as OpenAI does.")


class CompletionRequest(RequestBody):
    """A completion request. OpenAI's other parameters would have no effect and are rejected."""

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

    model: ModelName = Field(description="The model to use.", examples=["llm"])
    prompt: CompletionPrompt = Field(
        description="One or more prompts to complete. For the llm, a prompt may also be a list of token ids.", examples=["The"]
    )
    max_tokens: Annotated[int, Field(ge=0, le=1_024), AnyInteger] | None = Field(
        DEFAULT_MAX_TOKENS, description="Maximum number of new tokens; 0 with `echo` and `logprobs` evaluates the prompt alone."
    )
    temperature: float | None = Field(1, ge=0, le=2, description="Sampling temperature; 0 always takes the most probable token.")
    top_p: float | None = Field(1, gt=0, le=1, description="Sample from the most probable tokens whose probabilities add up to this value.")
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), AnyInteger] | None = Field(1, description="Number of texts for each prompt.")
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = Field(
        None, description="Generation stops before the first of these strings."
    )
    seed: Seed | None = Field(
        None, description="The same seed gives the same text (for the llm, only if TRIGEN_REPRODUCIBLE is set). Default: random."
    )
    echo: bool | None = Field(False, description="Put the prompt before each text.")
    logprobs: Annotated[int, Field(ge=0, le=5), AnyInteger] | None = Field(
        None,
        description="Return each token's log-probability and this many alternatives; with `echo`, for the prompt's tokens too. "
        f"All texts of a request together may have up to {MAX_SCORED_TOKENS:,} such tokens.",
    )
    stream: bool | None = Field(False, description="Send Server-Sent Events, each with a CompletionChunk, and `[DONE]` at the end.")
    stream_options: StreamOptions | None = Field(None, description="Options of the stream; requires `stream`.")

    @field_validator("stream_options")
    @classmethod
    def require_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        """Reject options that would have no effect."""
        if options and not info.data.get("stream"):
            raise PydanticCustomError("no_effect", "Requires stream to be true")
        return options

    @classmethod
    def problem(cls, error: ValidationError) -> Problem:
        """Return the problem for an invalid body: 404 for an unknown model, as OpenAI does; if `prompt` or `stop` fits none of its
        types, one message about that field alone; otherwise every invalid field.
        """
        for details in error.errors(include_url=False):
            if details["loc"] == ("model",) and isinstance(details["input"], str):
                return unknown_model(details["input"])
            if len(details["loc"]) > 1 and (message := _UNION_MESSAGES.get(str(details["loc"][0]))):
                return invalid_field(str(details["loc"][0]), message, "wrong_kind")
        return super().problem(error)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list, even if there is only one."""
        prompt: Any = self.prompt
        return prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]


class Logprobs(BaseModel):
    """The log-probabilities of a text, in lists with one entry for each token."""

    tokens: list[str] = Field(description="The tokens. A token that is only part of a character is spelled as in the vocabulary.")
    token_logprobs: list[float | None] = Field(
        description="Natural logarithms of the tokens' probabilities, before temperature and top_p; null for the first token of a text."
    )
    top_logprobs: list[TokenLogprobs | None] = Field(
        description="The token and its most probable alternatives, with their log-probabilities."
    )
    text_offset: list[int] = Field(description="Offset of each token in the text, in characters.")


class CompletionChoice(BaseModel):
    """One generated text."""

    index: int = Field(description="The text's index; the texts of the first prompt come first.")
    text: str = Field(description="The generated text; with `echo`, the prompt comes before it.")
    logprobs: Logprobs | None = Field(description="Log-probabilities, if requested.")
    finish_reason: FinishReason = Field(description="`length`: max_tokens was reached; `stop`: the model or a stop string ended the text.")


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int = Field(description="Number of tokens in the prompts.")
    completion_tokens: int = Field(description="Number of generated tokens, including end-of-text tokens.")
    total_tokens: int = Field(description="Sum of `prompt_tokens` and `completion_tokens`.")


class Completion(bentoml.IODescriptor):
    """The generated texts."""

    id: str = Field(description="The completion's id.", examples=["cmpl-0af7651916cd43dd"])
    object: Literal["text_completion"]
    created: Int64 = Field(description="Unix time of the request.", examples=[1_750_000_000])
    model: ModelName = Field(description="The model that generated the texts.")
    system_fingerprint: str = Field(description="The model's tag in BentoML's model store.", examples=["trigen-llm:tc7d73xigwudqax4"])
    choices: list[CompletionChoice] = Field(description="`n` texts for each prompt.")
    usage: Usage = Field(description="Token counts of the request.")


class OpenAIError(BaseModel):
    """An error in OpenAI's format."""

    message: str = Field(
        description="What went wrong and, where possible, how to fix it.", examples=["temperature: Input should be less than or equal to 2"]
    )
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"] = Field(description="The error type.")
    param: str | None = Field(description="The invalid field, if any.", examples=["temperature"])
    code: str | None = Field(description="The error code.", examples=["less_than_equal"])
    request_id: str = Field(description="The request's id, as in the `X-Request-ID` header and in the service's log.")


class ErrorResponse(BaseModel):
    """An error response of `/v1`."""

    error: OpenAIError


class ChunkChoice(BaseModel):
    """A piece of one text."""

    index: int = Field(description="The text's index.")
    text: str = Field(description="The next piece of the text.")
    logprobs: Logprobs | None = Field(description="Log-probabilities of the tokens in this piece, if requested.")
    finish_reason: StreamFinishReason | None = Field(
        description="In a text's last piece. `length`, `stop`: as in CompletionChoice; `cancelled`: the service stopped; "
        "`error`: see the chunk's `error`."
    )


class CompletionChunk(BaseModel):
    """The `data` of one event. Only the last chunk before `[DONE]` has the `usage`; a stream that ends without it was cut off."""

    id: str = Field(description="The completion's id.")
    object: Literal["text_completion"]
    created: Int64 = Field(description="Unix time of the request.")
    model: ModelName = Field(description="The model that generates the texts.")
    system_fingerprint: str = Field(description="The model's tag in BentoML's model store.")
    choices: list[ChunkChoice] = Field(description="Pieces of the texts.")
    usage: Usage | None = Field(description="In the last chunk: token counts of the request.")
    error: OpenAIError | None = Field(None, description="In the last chunk of a stream that failed: the error.")


class Model(BaseModel):
    """A model of the service."""

    id: ModelName = Field(description="The model's name.")
    object: Literal["model"]
    created: Int64 = Field(description="Unix time of the model's registration.")
    owned_by: str = Field(description="The model's tag in BentoML's model store.", examples=["trigen-llm:tc7d73xigwudqax4"])


class ModelList(BaseModel):
    """The models of the service."""

    object: Literal["list"]
    data: list[Model] = Field(description="The models.")


def unknown_model(name: str) -> Problem:
    """Return the problem for a model name that does not exist (404)."""
    message = f"Unknown model {printable(name, 64)!r}; available models: {', '.join(get_args(ModelName.__value__))}"
    return Problem(404, message, [Fault(loc=["model"], msg=message, type="model_not_found")])
