"""A tiny artifact, and both engines on it in full precision."""

import asyncio
import shutil
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from models.base import Token
from models.engines import Engine
from models.engines.openvino import EXACT, OpenVINOEngine
from models.engines.transformers import TransformersEngine
from tests.conftest import HANG_SECONDS
from tests.models.engines.pace import Pace
from training.export.openvino_ir import export_openvino

PROMPTS = ["The", "In the year 1889 the", "Question: who?\nAnswer:", "naïve café …"]


@pytest.fixture(scope="module")
def artifact(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory that contains the IR, as in the model store."""
    directory = tmp_path_factory.mktemp("artifact")
    shutil.copytree(tiny_base, directory, dirs_exist_ok=True)
    export_openvino(directory, directory / "openvino", "fp32")
    return directory


def build(name: str, artifact: Path) -> Engine:
    """Start an engine."""
    return OpenVINOEngine(artifact, EXACT) if name == "openvino" else TransformersEngine(artifact, torch.float32)


@dataclass(frozen=True)
class Paced:
    """An engine whose steps a test can hold back."""

    engine: Engine
    pace: Pace

    async def wait_until_idle(self) -> None:
        """Return when the engine works on nothing."""

        def is_working() -> bool:
            if isinstance(self.engine, TransformersEngine):
                return bool(self.engine._manager.batch_processor.has_pending_requests())
            return bool(self.engine.running)

        async with asyncio.timeout(HANG_SECONDS):
            while is_working():
                await asyncio.sleep(0.01)


def build_paced(name: str, artifact: Path, directory: Path) -> Paced:
    """Start an engine that takes its steps at the pace of `directory`."""
    pace = Pace(directory)
    if name == "openvino":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(pace.openvino_executable()))
            return Paced(build(name, artifact), pace)
    engine = build(name, artifact)
    assert isinstance(engine, TransformersEngine)
    runner = engine._manager.batch_processor.model_runner
    runner._sample = pace.limit(runner._sample)
    return Paced(engine, pace)


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def paced(request: pytest.FixtureRequest, artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paced]:
    """Both engines, one after the other, running freely unless a test holds them."""
    paced = build_paced(request.param, artifact, tmp_path_factory.mktemp(request.param))
    yield paced
    paced.engine.close()


@pytest.fixture
def engine(paced: Paced) -> Engine:
    """The engine of `paced`, for tests that do not hold it."""
    return paced.engine


async def collect(stream: AsyncGenerator[Token]) -> list[Token]:
    """Return all tokens of a stream."""
    return [token async for token in stream]


def text_of(tokens: list[Token]) -> str:
    """Return the text that the tokens add up to."""
    return "".join(token.text for token in tokens)


class HeldForward:
    """Takes the place of a torch model's forward pass: counts the passes, and holds them until `go_on`."""

    def __init__(self, model: Any) -> None:
        self.passes = 0
        self._forward, self._may_go_on = model.forward, threading.Event()
        model.forward = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the pass once it may go on."""
        self.passes += 1
        assert self._may_go_on.wait(HANG_SECONDS)
        return self._forward(*arguments, **options)

    async def wait_for_pass(self) -> None:
        """Return when a pass has begun."""
        while not self.passes:
            await asyncio.sleep(0.001)

    def go_on(self) -> None:
        """Let the passes run."""
        self._may_go_on.set()
