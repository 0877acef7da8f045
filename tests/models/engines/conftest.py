"""A tiny artifact, and both engines on it; the CPU engine in full precision."""

import shutil
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from models.base import Token
from models.engines import Engine
from models.engines.openvino import OpenVINOEngine
from models.engines.openvino_messages import EXACT
from models.engines.transformers import TransformersEngine
from training.export.openvino_ir import export_openvino

PROMPTS = ["The", "In the year 1889 the", "Question: who?\nAnswer:", "naïve café …"]


@pytest.fixture(scope="module")
def artifact(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with the IR in it, as the store holds it."""
    directory = tmp_path_factory.mktemp("artifact")
    shutil.copytree(tiny_base, directory, dirs_exist_ok=True)
    export_openvino(directory, directory / "openvino", "fp32")
    return directory


def build(name: str, artifact: Path) -> Engine:
    return OpenVINOEngine(artifact, EXACT) if name == "openvino" else TransformersEngine(artifact)


@pytest.fixture(scope="module", params=["openvino", "transformers"])
def engine(request: pytest.FixtureRequest, artifact: Path) -> Iterator[Engine]:
    engine = build(request.param, artifact)
    yield engine
    engine.close()


async def collect(stream: AsyncGenerator[Token]) -> list[Token]:
    return [token async for token in stream]


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)
