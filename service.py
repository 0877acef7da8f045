"""The Bento: three generations of language models behind one HTTP API."""

import os
import threading
from pathlib import Path
from typing import Any

import bentoml
from starlette.responses import Response

from models.base import TextModel
from models.bigram import Bigram
from models.engines import Supervision
from models.llm import LLM
from models.rnn import RNN
from models.store import TrigenModel
from serving.api import completions, generation, info
from serving.api.completion_schemas import Completion, CompletionRequest, Model, ModelList, ModelName
from serving.api.info import Info
from serving.api.schemas import (
    AnswerRequest,
    AnswerResponse,
    GenerateRequest,
    GenerateResponse,
    GenerateWithLLMRequest,
)
from serving.app import TrigenService
from serving.settings import MAX_TIMEOUT_SECONDS, settings
from serving.streaming import LAST_EVENT_SECONDS, drain_streams

# BentoML adds a compiler and git (590 MB) to the images of the distributions it knows; "wheels-only" is not one of them.
IMAGE = bentoml.images.Image(base_image="python:3.11-slim", distro="wheels-only", python_version="3.11")

# BentoML's timeout answers the client but does not stop the work, so it must come after ours (`TRIGEN_TIMEOUT_SECONDS`).
TRAFFIC = {"timeout": MAX_TIMEOUT_SECONDS + 60}


GIVEN_UP_STATUS = 70
"""The exit status of a worker whose engine has given up: EX_SOFTWARE of sysexits.h."""


def exit_worker() -> None:
    """End this worker with a status other than 0, after the time for its last responses."""
    threading.Timer(LAST_EVENT_SECONDS, os._exit, [GIVEN_UP_STATUS]).start()


@bentoml.service(name="trigen", service_class=TrigenService, image=IMAGE, traffic=TRAFFIC)
class Trigen:
    """A bigram model, an LSTM and a fine-tuned LLM continue text; the LLM also answers questions."""

    bigram_model = TrigenModel("bigram")
    rnn_model = TrigenModel("rnn")
    llm_model = TrigenModel("llm")

    def __init__(self) -> None:
        self.bigram = Bigram.load(Path(self.bigram_model.path))
        supervision = Supervision(settings().engine_hang_seconds, give_up=exit_worker)
        self.rnn = RNN.load(Path(self.rnn_model.path), supervision)
        self.llm = LLM.load(Path(self.llm_model.path), settings().engine, reproducible=settings().reproducible, supervision=supervision)
        self.models: dict[ModelName, TextModel] = {"bigram": self.bigram, "rnn": self.rnn, "llm": self.llm}
        self.stored: dict[ModelName, bentoml.Model] = {"bigram": self.bigram_model, "rnn": self.rnn_model, "llm": self.llm_model}

    @bentoml.on_deployment
    @staticmethod
    def check_settings() -> None:
        """Fail on invalid settings before BentoML starts a worker, which it would restart forever."""
        settings()

    @bentoml.api(route="/generate_text", input_spec=GenerateRequest, output_spec=GenerateResponse)
    async def generate_text(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the bigram model."""
        return await generation.continue_text(self.bigram, str(self.bigram_model.tag), **request)

    @bentoml.api(route="/generate_with_rnn", input_spec=GenerateRequest, output_spec=GenerateResponse)
    async def generate_with_rnn(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the LSTM."""
        return await generation.continue_text(self.rnn, str(self.rnn_model.tag), **request)

    @bentoml.api(route="/generate_with_llm", input_spec=GenerateWithLLMRequest, output_spec=GenerateResponse)
    async def generate_with_llm(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the fine-tuned LLM, or answer it if it ends in a question mark."""
        return await generation.continue_or_answer(self.llm, str(self.llm_model.tag), **request)

    @bentoml.api(route="/answer_question", input_spec=AnswerRequest)
    async def answer_question(self, **request: Any) -> AnswerResponse:
        """Answer a question from a passage with the fine-tuned LLM."""
        return await generation.answer_question(self.llm, str(self.llm_model.tag), **request, length=settings().answer_length)

    @bentoml.api(route="/v1/completions", input_spec=CompletionRequest, output_spec=Completion)
    async def create_completion(self, **request: Any) -> Completion | Response:
        """Complete prompts with any of the models, in the format of OpenAI's API."""
        completion_request = CompletionRequest.model_construct(**request)  # BentoML passes the fields of a validated body
        name = completion_request.model
        return await completions.create_completion(self.models[name], str(self.stored[name].tag), completion_request)

    def list_models(self) -> ModelList:
        """List the models in the format of OpenAI's API."""
        return info.list_models(self.stored)

    def get_model(self, name: str) -> Model:
        """Return one entry of `list_models`."""
        return info.find_model(self.stored, name)

    def info(self) -> Info:
        """Return the models with their training data and metrics, and the limits of a request."""
        return info.describe(self.stored, self.llm.engine.limits.context_length, settings())

    async def __is_alive__(self) -> bool:
        """Answer `/livez`: once an engine has given up, the service needs a restart."""
        return self.llm.engine.alive and self.rnn.engine.alive

    async def __is_ready__(self) -> bool:
        """Answer `/readyz`: while an engine is being replaced, other replicas answer faster."""
        return self.llm.engine.ready and self.rnn.engine.ready

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Wait for the streams' last events, then stop the engines."""
        await drain_streams()
        self.rnn.close()
        self.llm.close()
