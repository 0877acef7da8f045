"""The bodies of requests and answers, and their bounds."""

import math
import secrets
from typing import Annotated, Any, Self

import bentoml
from pydantic import ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from models.base import FinishReason, SamplingParams
from serving.problems import Problem, invalid_body
from serving.settings import settings

LENGTH = Field(ge=1, le=512, description="New tokens at most: words for the bigram and the LSTM, BPE tokens for the LLM.")
PROMPT = Field(min_length=1, max_length=4_000, description="The text to continue: one word or any prompt.")
CONTEXT_CHARACTERS = 20_000


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
            raise Problem(415, f"the body must be JSON: send Content-Type: application/json, not {media_type}")
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
            return cls.model_validate_json(bytes(body))  # type: ignore[no-any-return]
        except ValidationError as error:
            raise invalid_body(error) from None


class GenerateRequest(RequestBody):
    """A prompt, how much to add to it, and how to sample."""

    start_word: str = PROMPT
    length: int = LENGTH
    temperature: float | None = Field(
        None, ge=0, le=2, description="0 takes the most probable token each time. Default: 0.8, and 0 for a question put to the LLM."
    )
    top_k: int = Field(0, ge=0, le=1_000, description="Sample among the k most probable tokens; 0 does not restrict.")
    top_p: float = Field(0.95, gt=0, le=1, description="Sample among the most probable tokens that together reach this probability.")
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**32,
        description="Same seed, same text (the LLM's: with TRIGEN_REPRODUCIBLE). Default: drawn, and told in the answer.",
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, max_length=8, description="The text ends before the first of these strings (up to 8, none empty)."
    )
    stream: bool = Field(False, description="Answer with Server-Sent Events, pieces of the text as they come.")


class GenerateWithLLMRequest(GenerateRequest):
    """A prompt that ends in a question mark is asked as a question, about `context` if it is given."""

    context: str | None = Field(None, max_length=CONTEXT_CHARACTERS, description="The passage that holds the answer.")


class GenerateResponse(bentoml.IODescriptor):
    """The prompt and its continuation."""

    generated_text: str = Field(description="The prompt, followed by what the model adds.")
    finish_reason: FinishReason = Field(description="`length`: as long as was asked for; `stop`: the model or a stop string ended it.")
    new_tokens: int = Field(description="How many tokens the model added, the one that ends the text included.")
    seed: int = Field(description="The seed that gives this text again (the LLM's: with TRIGEN_REPRODUCIBLE).")
    model: str = Field(description="The model's tag in the store.")


class AnswerRequest(RequestBody):
    """A question and the passage that answers it."""

    question: str = Field(min_length=1, max_length=4_000, pattern=r"\S", description="The question.")
    context: str = Field(min_length=1, pattern=r"\S", max_length=CONTEXT_CHARACTERS, description="The passage that holds the answer.")


class AnswerResponse(bentoml.IODescriptor):
    """The answer, as in transformers' question-answering pipeline."""

    answer: str = Field(description="The answer.")
    score: float = Field(
        ge=0,
        le=1,
        description="The probability that the model gives to exactly this answer (cut off at the limit: to its beginning).",
    )
    start: int | None = Field(description="Offset of the answer's first character in the context; null if it is not a span of it.")
    end: int | None = Field(description="Offset behind the answer's last character; null if it is not a span of the context.")
    model: str = Field(description="The model's tag in the store.")


def sampling_params(
    length: int,
    temperature: float | None,
    top_k: int,
    top_p: float,
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
        top_p=top_p,
        seed=secrets.randbits(32) if seed is None else seed,
        stop=tuple(stop),
        interval=settings().stream_interval_ms / 1000 if stream else math.inf,
    )
