"""The bodies of requests and answers, and their bounds."""

import math
import secrets
from typing import Annotated, Any, Literal, Self

import bentoml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from typing_extensions import TypeAliasType

from models.base import FinishReason, SamplingParams
from serving.admission import ADMISSION
from serving.problems import Problem, invalid_body
from serving.settings import settings

PROMPT = Field(min_length=1, max_length=4_000, examples=["The"], description="The text to continue: one word or any prompt.")
CONTEXT_CHARACTERS = 20_000
AnyInteger = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
"""JSON knows one kind of numbers: 20.0 is an integer to JSON Schema, and what some clients write. It comes behind the bounds, or pydantic
does not tell of them.
"""
Int64 = Annotated[int, Field(json_schema_extra={"format": "int64"})]
"""A number that an int of 32 bits, which is what other languages take for an integer, does not hold."""
Seed = Annotated[int, Field(ge=0, lt=2**32, json_schema_extra={"format": "int64"}), AnyInteger]
StreamFinishReason = TypeAliasType("StreamFinishReason", Literal["length", "stop", "cancelled", "error"])


class RequestBody(bentoml.IODescriptor):
    """A JSON object: no unknown field, no text where a number is due, no more bytes than the settings allow."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Self:  # noqa: ARG003
        """Read and check a request's body here: BentoML's own reading has no bound and answers what is wrong with a traceback in the
        log. Raises `Problem`.
        """
        media_type = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
        if media_type != "application/json":
            raise Problem(415, f"the body must be JSON: send Content-Type: application/json, not {media_type or 'an empty one'}")
        limit = settings().max_body_bytes
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise Problem(413, f"the body exceeds {limit:,} bytes")
        except ClientDisconnect:
            raise Problem(400, "the client left before its request was read") from None
        request.state.body_was_read = True  # what the client sends from now on is that it leaves
        try:
            request_body: Self = cls.model_validate_json(bytes(body))
        except ValidationError as error:
            raise cls.problem(error) from None
        ADMISSION.take(request_body.texts)
        return request_body

    @classmethod
    def problem(cls, error: ValidationError) -> Problem:
        """What to answer a wrong body with."""
        return invalid_body(error)

    @property
    def texts(self) -> int:
        """How many the request asks for."""
        return 1


class GenerateRequest(RequestBody):
    """A prompt, how much to add to it, and how to sample."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"start_word": "The", "length": 20}, {"start_word": "The light", "length": 20, "temperature": 0}]}
    )

    start_word: str = PROMPT
    length: Annotated[int, Field(ge=1, le=512), AnyInteger] = Field(
        examples=[20], description="New tokens at most: words for the bigram and the LSTM, BPE tokens for the LLM."
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 takes the most probable token each time. Default: 0.8, and 0 for a question put to the LLM."
    )
    top_k: Annotated[int, Field(ge=0, le=1_000), AnyInteger] = Field(
        0, description="Sample among the k most probable tokens; 0 does not restrict."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample among the most probable tokens that together reach this probability. Default: 0.95."
    )
    seed: Seed | None = Field(
        None,
        description="Same seed, same text (the LLM's: with TRIGEN_REPRODUCIBLE). Default: drawn, and told in the answer.",
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, max_length=8, description="The text ends before the first of these strings (up to 8, none empty)."
    )
    stream: bool = Field(False, description="Answer with Server-Sent Events, pieces of the text as they come.")


class GenerateWithLLMRequest(GenerateRequest):
    """A prompt that ends in a question mark is asked as a question, about `context` if it is given; any other is continued."""

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
        description="The passage that holds the answer to a question; of another prompt, what stands before it.",
    )


class GenerateResponse(bentoml.IODescriptor):
    """The prompt and its continuation."""

    generated_text: str = Field(description="The prompt, followed by what the model adds.", examples=["The sea between rocks"])
    finish_reason: FinishReason = Field(description="`length`: as long as was asked for; `stop`: the model or a stop string ended it.")
    new_tokens: int = Field(description="How many tokens the model added, the one that ends the text included.", examples=[4])
    seed: Int64 = Field(description="The seed that gives this text again (the LLM's: with TRIGEN_REPRODUCIBLE).", examples=[7])
    model: str = Field(description="The model's tag in the store.", examples=["trigen-llm:tc7d73xigwudqax4"])


class Fault(BaseModel):
    """What is wrong with one field."""

    loc: list[str | int] = Field(description="The path to the field.", examples=[["length"]])
    msg: str = Field(description="What is wrong.", examples=["Input should be greater than or equal to 1"])
    type: str = Field(description="What kind of fault it is.", examples=["greater_than_equal"])


class ProblemDetails(BaseModel):
    """What is wrong, as RFC 9457 has it (https://www.rfc-editor.org/rfc/rfc9457)."""

    type: str = Field(description="A URI of the kind of problem; `about:blank`: the status says it.", examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Unprocessable Entity"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(description="What is wrong, and what to do.", examples=["length: Input should be greater than or equal to 1"])
    request_id: str = Field(description="The request, as the header `X-Request-ID` and the service's log name it.")
    errors: list[Fault] | None = Field(None, description="Of a body: each field that is wrong.")


class GenerateEvent(BaseModel):
    """The `data` of an event of a stream: a piece of text; the last one also has the other fields, and a stream without it was cut off."""

    text: str = Field(description="What comes next of the text.")
    finish_reason: StreamFinishReason | None = Field(
        None,
        description="In the last event: as in GenerateResponse, or `cancelled`: the service stopped; `error`: see `problem`.",
    )
    new_tokens: int | None = Field(None, description="In the last event: how many tokens the model added.")
    seed: Int64 | None = Field(None, description="In the last event: the seed that gives this text again.")
    model: str | None = Field(None, description="In the last event: the model's tag in the store.")
    problem: ProblemDetails | None = Field(None, description="In the last event, if something went wrong: what.")


class AnswerRequest(RequestBody):
    """A question and the passage that answers it."""

    question: str = Field(min_length=1, max_length=4_000, pattern=r"\S", examples=["Who kept the light?"], description="The question.")
    context: str = Field(
        min_length=1,
        pattern=r"\S",
        max_length=CONTEXT_CHARACTERS,
        examples=["From 1889 to 1921 the light was kept by Anna Berg."],
        description="The passage that holds the answer.",
    )


class AnswerResponse(bentoml.IODescriptor):
    """The answer, as in transformers' question-answering pipeline."""

    answer: str = Field(description="The answer.", examples=["Anna Berg"])
    score: float = Field(
        ge=0,
        le=1,
        description="The probability that the model gives to exactly this answer (cut off at the limit: to its beginning).",
    )
    start: int | None = Field(description="Offset of the answer's first character in the context; null if it is not a span of it.")
    end: int | None = Field(description="Offset behind the answer's last character; null if it is not a span of the context.")
    model: str = Field(description="The model's tag in the store.", examples=["trigen-llm:tc7d73xigwudqax4"])


def sampling_params(
    length: int,
    temperature: float | None,
    top_k: int,
    top_p: float | None,
    seed: int | None,
    stop: list[str],
    *,
    stream: bool,
    greedy: bool = False,
) -> SamplingParams:
    """What a request asks for, with its defaults; `greedy` is what an absent temperature means. A text that is not streamed is wanted as
    a whole.
    """
    chosen = SamplingParams.temperature if temperature is None else temperature
    return SamplingParams(
        length=length,
        temperature=0 if greedy and temperature is None else chosen,
        top_k=top_k,
        top_p=SamplingParams.top_p if top_p is None else top_p,
        seed=secrets.randbits(32) if seed is None else seed,
        stop=tuple(stop),
        interval=settings().stream_interval_ms / 1000 if stream else math.inf,
    )
