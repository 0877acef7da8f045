"""Both engines write the same greedy text in full precision, on the real weights that the quickstart fetches."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch

from models.answering.prompts import question_prompt
from models.base import SamplingParams
from models.engines import Engine
from models.engines.openvino import EXACT, OpenVINOEngine
from models.engines.transformers import TransformersEngine
from tests.conftest import PROJECT, QUICKSTART
from training.export.openvino_ir import export_openvino

pytestmark = pytest.mark.slow
WEIGHTS = PROJECT / "runs/base-models/smollm2-135m-instruct"


@pytest.mark.skipif(not WEIGHTS.exists(), reason="no real weights: `python train.py --preset quickstart` fetches them")
def test_both_engines_write_the_same_greedy_text_in_full_precision(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path, dirs_exist_ok=True)
    export_openvino(tmp_path, tmp_path / "openvino", "fp32")
    rows = [json.loads(line) for line in (QUICKSTART / "validation.jsonl").read_text().splitlines()][::9]
    prompts = [question_prompt(row["question"], row["context"]) for row in rows] + [row["context"][:80] for row in rows]
    engines: list[Engine] = [OpenVINOEngine(tmp_path, EXACT), TransformersEngine(tmp_path, torch.float32)]

    async def text(engine: Engine, prompt: str) -> str:
        return "".join([token.text async for token in engine.stream(prompt, SamplingParams(24, temperature=0))])

    assert len(prompts) == 40
    for prompt in prompts:
        served, reference = (asyncio.run(text(engine, prompt)) for engine in engines)
        assert served == reference
    for engine in engines:
        engine.close()
