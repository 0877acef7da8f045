"""The Bento: three generations of language models behind one HTTP API."""

import gc
import logging
import os
import time
from functools import cached_property
from typing import Any

import bentoml
from starlette.responses import Response

from models.bigram import Bigram
from models.engines import Supervision
from models.llm import LLM
from models.rnn import RNN
from models.store import TrigenModel, verify_all
from models.store.held_files import HeldFiles
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
from serving.api.served_model import ServedModel, serve_model
from serving.app import TrigenService
from serving.edge.drain import DRAIN, LAST_RESPONSE_SECONDS
from serving.observability.logs import configure_logs
from serving.observability.metrics import before_scrape
from serving.settings import model_versions, settings

GIVEN_UP_STATUS = 70
"""The exit status of a worker whose engine has given up: EX_SOFTWARE of sysexits.h."""
GIVEN_UP_SECONDS = 2
"""How long such a worker answers at least, so that a probe sees why it exits."""

logger = logging.getLogger("bentoml.trigen")


def exit_worker() -> None:
    """End this worker with a status other than 0: refuse new requests at once, and let those of the other models end first.

    An engine that gives up calls this in a thread of its own.
    """
    DRAIN.refusing = True
    logger.critical("The worker exits with status %d as soon as its running requests have ended", GIVEN_UP_STATUS)
    deadline = time.monotonic() + settings().timeout_seconds + LAST_RESPONSE_SECONDS
    time.sleep(GIVEN_UP_SECONDS)
    while DRAIN.open_requests and time.monotonic() < deadline:
        time.sleep(0.1)
    os._exit(GIVEN_UP_STATUS)


@bentoml.service(name="trigen", service_class=TrigenService)
class Trigen:
    """A bigram model, an LSTM and a fine-tuned LLM continue text; the LLM also answers questions."""

    bigram_model = TrigenModel("bigram", model_versions)
    rnn_model = TrigenModel("rnn", model_versions)
    llm_model = TrigenModel("llm", model_versions)

    def __init__(self) -> None:
        self.files = HeldFiles()
        supervision = Supervision(settings().engine_hang_seconds, give_up=exit_worker)
        self.bigram = Bigram.load(self.files.hold(self.bigram_model))
        self.rnn = RNN.load(self.files.hold(self.rnn_model), supervision)
        self.llm = LLM.load(
            self.files.hold(self.llm_model), settings().engine, reproducible=settings().reproducible, supervision=supervision
        )
        self.stored: dict[ModelName, bentoml.Model] = {"bigram": self.bigram_model, "rnn": self.rnn_model, "llm": self.llm_model}
        self.served_bigram = serve_model("bigram", self.bigram, str(self.bigram_model.tag))
        self.served_rnn = serve_model("rnn", self.rnn, str(self.rnn_model.tag))
        self.served_llm = serve_model("llm", self.llm, str(self.llm_model.tag))
        self.served: dict[ModelName, ServedModel[Any]] = {
            "bigram": self.served_bigram,
            "rnn": self.served_rnn,
            "llm": self.served_llm,
        }
        gc.freeze()  # the models are never garbage: without this, looking through them takes a tenth of a second now and then
        self.served_rnn.metrics.watch_engine(self.rnn.engine)
        self.served_llm.metrics.watch_engine(self.llm.engine)
        before_scrape.append(lambda: self.served_llm.metrics.cache_usage.set(self.llm.engine.cache_usage))

    @bentoml.on_deployment
    @staticmethod
    def check_settings() -> None:
        """Fail on invalid settings before BentoML starts a worker, which it would restart forever."""
        settings()
        configure_logs()

    @bentoml.on_deployment
    @staticmethod
    def check_models() -> None:
        """Fail on a damaged model before BentoML starts a worker."""
        verify_all(model_versions())

    @bentoml.api(route="/generate_text", input_spec=GenerateRequest, output_spec=GenerateResponse)
    async def generate_text(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the bigram model."""
        return await generation.continue_text(self.served_bigram, **request)

    @bentoml.api(route="/generate_with_rnn", input_spec=GenerateRequest, output_spec=GenerateResponse)
    async def generate_with_rnn(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the LSTM."""
        return await generation.continue_text(self.served_rnn, **request)

    @bentoml.api(route="/generate_with_llm", input_spec=GenerateWithLLMRequest, output_spec=GenerateResponse)
    async def generate_with_llm(self, **request: Any) -> GenerateResponse | Response:
        """Continue a prompt with the fine-tuned LLM, or answer it if it ends in a question mark."""
        return await generation.continue_or_answer(self.served_llm, **request)

    @bentoml.api(route="/answer_question", input_spec=AnswerRequest)
    async def answer_question(self, **request: Any) -> AnswerResponse:
        """Answer a question from a passage with the fine-tuned LLM."""
        return await generation.answer_question(self.served_llm, **request, length=settings().answer_length)

    @bentoml.api(route="/v1/completions", input_spec=CompletionRequest, output_spec=Completion)
    async def create_completion(self, **request: Any) -> Response:
        """Complete prompts with any of the models, in the format of OpenAI's API."""
        completion_request = CompletionRequest.model_construct(**request)  # BentoML passes the fields of a validated body
        return await completions.create_completion(self.served[completion_request.model], completion_request)

    @cached_property
    def model_list(self) -> ModelList:
        """The models in the format of OpenAI's API."""
        return info.list_models(self.stored)

    @cached_property
    def description(self) -> Info:
        """The models with their training data and metrics, and the limits of a request."""
        return info.describe(self.stored, self.llm.engine.limits.context_length, settings())

    def list_models(self) -> ModelList:
        """List the models in the format of OpenAI's API."""
        return self.model_list

    def get_model(self, name: str) -> Model:
        """Return one entry of `list_models`."""
        return info.find_model(self.model_list, name)

    def info(self) -> Info:
        """Return the models with their training data and metrics, and the limits of a request."""
        return self.description

    async def __is_alive__(self) -> bool:
        """Answer `/livez`: once an engine has given up, the service needs a restart."""
        return self.llm.engine.alive and self.rnn.engine.alive

    async def __is_ready__(self) -> bool:
        """Answer `/readyz`: while an engine is being replaced, other replicas answer faster."""
        return self.llm.engine.ready and self.rnn.engine.ready

    @bentoml.on_shutdown
    async def close(self) -> None:
        """Stop the engines."""
        self.rnn.close()
        self.llm.close()
        self.files.close()
