"""Random models of other architectures are trained by the real script and served by the real service, or refused."""

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
import torch

from models.base import SamplingParams
from models.engines import Engine
from models.engines.openvino import EXACT, OpenVINOEngine
from models.engines.transformers import TransformersEngine
from tests.architectures import ARCHITECTURES, WINDOWED, build, save
from tests.conftest import serve, train
from training.export.openvino_ir import export_openvino

pytestmark = pytest.mark.slow
PASSAGE = "Anna Berg kept the light on the island of Skar for forty years. " * 8
LONG_ENOUGH = 768


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_trained_exported_and_served_as_torch_computes_it(name: str, tiny_base: Path, tmp_path: Path) -> None:
    window = {"sliding_window": LONG_ENOUGH} if name in WINDOWED else {}
    trained = train(save(build(name, **window), tmp_path / "base", tiny_base), tmp_path)
    with serve(trained, tmp_path / "log") as server:
        answer = httpx.post(
            f"{server.url}/answer_question", json={"question": "Who kept the light?", "context": PASSAGE, "extractive": True}
        )
        assert answer.status_code == 200, answer.text
        text = httpx.post(f"{server.url}/generate_with_llm", json={"start_word": "The light", "length": 8})
        assert text.json()["generated_text"].startswith("The light"), text.text

    llm = tmp_path / "llm"  # the trained weights in full precision: the served ones are compressed
    shutil.copytree(trained.output / "llm", llm, ignore=shutil.ignore_patterns("openvino"))
    export_openvino(llm, llm / "openvino", "fp32")
    engines: list[Engine] = [OpenVINOEngine(llm, EXACT), TransformersEngine(llm, torch.float32)]
    served, reference = (asyncio.run(greedy_with_logprobs(engine)) for engine in engines)
    for engine in engines:
        engine.close()
    assert served[0] == reference[0]
    assert served[1] == pytest.approx(reference[1], abs=1e-3)


async def greedy_with_logprobs(engine: Engine) -> tuple[list[int], list[float]]:
    """Return the ids that continue the passage greedily, and the log-probabilities of them and of the passage."""
    prompt: list[int] = engine.tokenizer.encode(PASSAGE).ids
    ids = [id async for token in engine.stream(prompt, SamplingParams(32, temperature=0)) for id in token.ids]
    reader = engine.logprob_reader()
    logprobs = await reader.read([*prompt, *ids])
    reader.close()
    return ids, [logprob for logprob, _ in logprobs[1:] if logprob is not None]
