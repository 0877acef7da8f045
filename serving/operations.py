"""The operations of the HTTP API, with their bodies and errors."""

from dataclasses import dataclass

from pydantic import BaseModel

from serving.api.completion_schemas import Completion, CompletionChunk, CompletionRequest, Model, ModelList
from serving.api.info import Info
from serving.api.schemas import (
    AnswerRequest,
    AnswerResponse,
    GenerateEvent,
    GenerateRequest,
    GenerateResponse,
    GenerateWithLLMRequest,
)

TAGS = {
    "generation": "Continue a prompt.",
    "questions": "Answer a question from a passage.",
    "openai": "OpenAI's completions API for all three models.",
    "service": "Information about the service, and probes.",
}

STATUSES = {
    400: "The body is not valid JSON, or a header is invalid.",
    401: "The API key is missing or wrong.",
    404: "The model does not exist.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The Content-Type is not JSON in UTF-8.",
    422: "One or more fields are invalid; `errors` lists the first ones.",
    429: "The service is busy; retry later.",
    500: "The service failed; its log has the cause.",
    503: "The model is unavailable, or the service has too many connections or is shutting down.",
    504: "The request timed out.",
}
"""Descriptions of the error responses."""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    path: str
    tag: str
    summary: str
    errors: tuple[int, ...]
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    """The body of a 200 response; None for plain text."""
    event: type[BaseModel] | None = None
    """The `data` of a stream's events, if the operation can stream."""
    parameter: str | None = None
    """The name of the path parameter, if there is one."""
    needs_key: bool = True


POST_ERRORS = (400, 401, 408, 413, 415, 422, 429, 500, 503, 504)
OPERATIONS = (
    Operation(
        "generate_text",
        "/generate_text",
        "generation",
        "Continue a prompt with the bigram model",
        errors=POST_ERRORS,
        request=GenerateRequest,
        response=GenerateResponse,
        event=GenerateEvent,
    ),
    Operation(
        "generate_with_rnn",
        "/generate_with_rnn",
        "generation",
        "Continue a prompt with the LSTM",
        errors=POST_ERRORS,
        request=GenerateRequest,
        response=GenerateResponse,
        event=GenerateEvent,
    ),
    Operation(
        "generate_with_llm",
        "/generate_with_llm",
        "generation",
        "Continue a prompt with the fine-tuned LLM, or answer it if it ends in a question mark",
        errors=POST_ERRORS,
        request=GenerateWithLLMRequest,
        response=GenerateResponse,
        event=GenerateEvent,
    ),
    Operation(
        "answer_question",
        "/answer_question",
        "questions",
        "Answer a question from a passage with the fine-tuned LLM",
        errors=POST_ERRORS,
        request=AnswerRequest,
        response=AnswerResponse,
    ),
    Operation(
        "create_completion",
        "/v1/completions",
        "openai",
        "Complete prompts with any of the models",
        errors=(400, 401, 404, 408, 413, 415, 429, 500, 503, 504),
        request=CompletionRequest,
        response=Completion,
        event=CompletionChunk,
    ),
    Operation("list_models", "/v1/models", "openai", "List the models", errors=(401, 500, 503), response=ModelList),
    Operation(
        "get_model", "/v1/models/{model}", "openai", "Describe one model", errors=(401, 404, 500, 503), response=Model, parameter="model"
    ),
    Operation(
        "get_info",
        "/info",
        "service",
        "Describe the models, their training and metrics, and the limits of a request",
        errors=(401, 500, 503),
        response=Info,
    ),
    Operation(
        "check_liveness", "/livez", "service", "Check whether the service is alive or needs a restart", errors=(503,), needs_key=False
    ),
    Operation("check_readiness", "/readyz", "service", "Check whether the service accepts requests", errors=(503,), needs_key=False),
)
