"""The request and response bodies of the native API, with their bounds and defaults."""

import asyncio
import secrets
from typing import Annotated, Any, Literal, Self

import bentoml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from typing_extensions import TypeAliasType

from models.base import FinishReason, SamplingParams
from serving.problems import Problem, ProblemDetails, invalid_body
from serving.settings import settings

CONTEXT_CHARACTERS = 20_000
MAX_STOP_STRINGS = 8
NOT_BLANK = r"[^\s\x85\uFEFF]"
"""A character that is no white space. Pydantic and JSON Schema (ECMA-262) disagree about these two."""
AnyInteger = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
"""Accepts 20.0 for 20: JSON Schema counts it as an integer, and some clients send it. In an `Annotated` it must come after the bounds, or
pydantic omits them from the schema.
"""
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
"""An integer that may exceed 32 bits, the default size in clients generated for other languages."""
Seed = Annotated[int, Field(ge=0, lt=2**32, json_schema_extra={"format": "int64"}), AnyInteger]
StreamFinishReason = TypeAliasType("StreamFinishReason", Literal["length", "stop", "cancelled", "error"])


class RequestBody(bentoml.IODescriptor):
    """A JSON object of limited size, without unknown fields or conversions between types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:  # noqa: ARG003
        """Read and validate the body. Raises `Problem`.

        BentoML's own method has no size limit and logs a traceback for every invalid body.
        """
        limit = settings().max_body_bytes
        too_large = Problem(413, f"The body exceeds the limit of {limit:,} bytes.")
        body = bytearray()
        try:
            if int(request.headers.get("content-length", 0)) > limit:  # the parser accepts digits only
                raise too_large
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
        except ClientDisconnect:
            raise Problem(400, "The client disconnected while sending the body.") from None
        body_read: asyncio.Event = request.state.body_read
        body_read.set()  # `serving/cancellation.py` may now listen for a disconnect
        try:
            request_body: Self = cls.model_validate_json(bytes(body))
        except ValidationError as error:
            raise cls.problem(error) from None
        return request_body

    @classmethod
    def problem(cls, error: ValidationError) -> Problem:
        """Return the problem for an invalid body."""
        return invalid_body(error)


class GenerateRequest(RequestBody):
    """A prompt, the maximum number of new tokens and the sampling parameters."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"start_word": "The", "length": 20}, {"start_word": "The light", "length": 20, "temperature": 0}]}
    )

    start_word: str = Field(
        min_length=1, max_length=4_000, examples=["The"], description="The prompt to continue: a word or a longer text."
    )
    length: Annotated[int, Field(ge=1, le=512), AnyInteger] = Field(
        examples=[20],
        description="Maximum number of new tokens: words and punctuation marks for the bigram and the LSTM, BPE tokens for the LLM.",
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sampling temperature; 0 always takes the most probable token. Default: 0.8, or 0 for a question to the LLM.",
    )
    top_k: Annotated[int, Field(ge=0, le=1_000), AnyInteger] = Field(
        0, description="Sample from the k most probable tokens; 0 means no limit."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample from the most probable tokens whose probabilities add up to this value. Default: 0.95."
    )
    seed: Seed | None = Field(
        None,
        description="The same seed gives the same text (for the LLM, only if TRIGEN_REPRODUCIBLE is set). "
        "Default: random; see the response.",
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, max_length=MAX_STOP_STRINGS, description="Generation stops before the first of these strings."
    )
    stream: bool = Field(False, description="Send the text as Server-Sent Events while it is generated.")


class GenerateWithLLMRequest(GenerateRequest):
    """A prompt for the LLM, which answers a prompt that ends in a question mark and continues any other."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"start_word": "The", "length": 20},
                {"start_word": "Who kept the light?", "context": "From 1889 to 1921 the light was kept by Anna Berg.", "length": 20},
            ]
        }
    )

    context: str | None = Field(
        None,
        max_length=CONTEXT_CHARACTERS,
        description="The passage that contains the answer to a question, or the text that precedes any other prompt.",
    )


class GenerateResponse(bentoml.IODescriptor):
    """The prompt and its continuation or answer."""

    generated_text: str = Field(description="The prompt followed by its continuation or answer.", examples=["The sea between rocks"])
    finish_reason: FinishReason = Field(
        description="`length`: the requested length was reached; `stop`: the model or a stop string ended the text."
    )
    new_tokens: int = Field(description="Number of generated tokens, including the end-of-text token, if any.", examples=[4])
    seed: Int64 = Field(description="The seed that reproduces this text (for the LLM, only if TRIGEN_REPRODUCIBLE is set).", examples=[7])
    model: str = Field(description="The model's tag in BentoML's model store.", examples=["trigen-llm:tc7d73xigwudqax4"])


class GenerateEvent(BaseModel):
    """The `data` of one event: a piece of text. Only the last event has a `finish_reason`; a stream that ends without it was cut off."""

    text: str = Field(description="The next piece of the text.")
    finish_reason: StreamFinishReason | None = Field(
        None,
        description="In the last event. `length`, `stop`: as in GenerateResponse; `cancelled`: the service stopped; "
        "`error`: see `problem`.",
    )
    new_tokens: int | None = Field(None, description="In the last event: the number of generated tokens.")
    seed: Int64 | None = Field(None, description="In the last event: the seed, as in GenerateResponse.")
    model: str | None = Field(None, description="In the last event: the model's tag in BentoML's model store.")
    problem: ProblemDetails | None = Field(None, description="In the last event of a stream that failed: the error.")


class AnswerRequest(RequestBody):
    """A question about a passage."""

    question: str = Field(min_length=1, max_length=4_000, pattern=NOT_BLANK, examples=["Who kept the light?"], description="The question.")
    context: str = Field(
        min_length=1,
        pattern=NOT_BLANK,
        max_length=CONTEXT_CHARACTERS,
        examples=["From 1889 to 1921 the light was kept by Anna Berg."],
        description="The passage that may contain the answer.",
    )
    no_answer_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The answer is null if `no_answer_probability` is above this; 1 always answers. Default: the model's own threshold.",
    )
    extractive: bool = Field(False, description="The answer is a span of the context, with `start` and `end`.")
    answers: Annotated[int, Field(ge=1, le=10), AnyInteger] = Field(
        1, description="Return this many of the best answers in `answers`; fewer if the context has fewer spans."
    )


class AnswerCandidate(BaseModel):
    """One of several answers. The fields are those of AnswerResponse."""

    answer: str = Field(description="The answer text.", examples=["Anna Berg"])
    score: float = Field(ge=0, le=1, description="The probability that this answer is right.")
    start: int | None = Field(description="Offset of the answer's first character in the context.")
    end: int | None = Field(description="Offset after the answer's last character.")
    likelihood: float = Field(ge=0, le=1, description="The model's probability of exactly this answer.")


class AnswerResponse(bentoml.IODescriptor):
    """An answer in the format of the question-answering pipeline of transformers, and how sure the model is of it."""

    answer: str | None = Field(description="The answer text; null if the passage does not answer the question.", examples=["Anna Berg"])
    score: float = Field(
        ge=0, le=1, description="The probability that the answer is right or, if it is null, that the passage does not answer the question."
    )
    start: int | None = Field(
        description="Offset of the answer's first character in the context; null if the context does not contain the answer."
    )
    end: int | None = Field(description="Offset after the answer's last character; null if the context does not contain the answer.")
    likelihood: float = Field(
        ge=0,
        le=1,
        description="The model's probability of exactly this answer, if it answers; for one that the length limit cut off, of any text "
        "that begins with it; without an answer, of none.",
    )
    no_answer_probability: float | None = Field(
        ge=0,
        le=1,
        description="The probability that the passage does not answer the question; null for a model that never declines.",
    )
    answers: list[AnswerCandidate] = Field(
        description="The best answers, `answer` first, if the request asked for several; otherwise, and if the model declines, empty."
    )
    model: str = Field(description="The model's tag in BentoML's model store.", examples=["trigen-llm:tc7d73xigwudqax4"])


def sampling_params(
    length: int,
    temperature: float | None,
    top_k: int,
    top_p: float | None,
    seed: int | None,
    stop: list[str],
    *,
    stream: bool,
    greedy_by_default: bool = False,
) -> SamplingParams:
    """Return the sampling parameters of a request, with defaults for the fields that are None."""
    if temperature is None:
        temperature = 0 if greedy_by_default else SamplingParams.temperature
    return SamplingParams(
        length=length,
        temperature=temperature,
        top_k=top_k,
        top_p=SamplingParams.top_p if top_p is None else top_p,
        seed=secrets.randbits(32) if seed is None else seed,
        stop=tuple(stop),
        flush_interval=settings().stream_interval_ms / 1000,
        final_only=not stream,
    )
