"""Int8 weights, with activations in int8 by the row or as OpenVINO has them."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from models.base import SamplingParams
from models.engines import Engine
from models.engines.openvino import OpenVINOConfig, OpenVINOEngine
from models.engines.openvino.row_quantization import SAMPLED_TOKENS, has_amx, quantize_rows
from tests.architectures import ARCHITECTURES, save
from tests.architectures import build as build_model
from tests.models.engines.conftest import PROMPTS, build, collect
from training.export.openvino_ir import export_openvino


@pytest.fixture(scope="module")
def int8_artifact(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact with int8 weights."""
    directory = tmp_path_factory.mktemp("int8")
    shutil.copytree(artifact, directory, dirs_exist_ok=True)
    export_openvino(artifact, directory / "openvino")
    return directory


def first_logprobs(engine: Engine) -> list[float | None]:
    """Return the log-probability of the most probable token after each prompt; the prompts are read together."""

    async def read() -> list[float | None]:
        params = SamplingParams(1, temperature=0, cumulative_logprob=True)
        texts = await asyncio.gather(*(collect(engine.stream(prompt, params)) for prompt in PROMPTS))
        return [tokens[0].cumulative_logprob for tokens in texts]

    with contextlib.closing(engine):
        return asyncio.run(read())


@pytest.mark.parametrize("int8_rows", [False, True])
def test_int8_changes_probabilities_by_its_rounding_only(int8_rows: bool, artifact: Path, int8_artifact: Path) -> None:
    served = first_logprobs(OpenVINOEngine(int8_artifact, OpenVINOConfig(int8_rows=int8_rows)))
    assert served == pytest.approx(first_logprobs(build("transformers", artifact)), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_are_quantized_in_every_architecture(name: str, tiny_base: Path, tmp_path: Path) -> None:
    directory = save(build_model(name), tmp_path, tiny_base)
    export_openvino(directory, directory / "openvino")
    assert quantize_rows(ov.Core().read_model(directory / "openvino/openvino_model.xml")) >= 5
    with_rows, without = (first_logprobs(OpenVINOEngine(directory, OpenVINOConfig(int8_rows=rows))) for rows in (True, False))
    assert with_rows == pytest.approx(without, abs=0.15)  # these random weights are large, so rounding shows


def test_every_product_with_int8_weights_is_quantized(int8_artifact: Path) -> None:
    model = ov.Core().read_model(int8_artifact / "openvino/openvino_model.xml")
    layers = json.loads((int8_artifact / "config.json").read_text())["n_layer"]
    assert quantize_rows(model) == 4 * layers + 1  # GPT-2: two products in the attention, two after it, and the head
    assert SAMPLED_TOKENS in {name for port in model.inputs for name in port.get_names()}


@pytest.mark.parametrize("transposed", [True, False])
def test_a_product_of_rows_is_the_product(transposed: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-127, 128, (32, 64), dtype=np.int8)  # (outputs, inputs)
    scales = 10.0 ** rng.uniform(-3, 0, (32, 1)).astype(np.float32)
    inputs = rng.standard_normal((1, 5, 64), dtype=np.float32) * np.array([[[1e-3], [1], [1e3], [0], [7]]], np.float32)
    stored = (values, scales) if transposed else (values.T, scales.T)
    weights = ops.multiply(ops.convert(ops.constant(np.ascontiguousarray(stored[0])), "f32"), ops.constant(stored[1]))
    parameter = ops.parameter([1, -1, 64], ov.Type.f32)
    model = ov.Model([ops.relu(ops.matmul(parameter, weights, False, transposed))], [parameter], "product")
    assert quantize_rows(model) == 1
    computed = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]
    expected = np.maximum(inputs @ (values * scales).T, 0)
    # An input is wrong by half a step at most, and the errors of 64 inputs hardly add up.
    error = np.abs(inputs).max(-1, keepdims=True) / 127 * np.linalg.norm(values * scales, axis=1)
    assert (np.abs(computed - expected) <= error).all()
    assert not computed[0, 3].any()


def test_a_model_without_int8_weights_is_left_as_it_is(artifact: Path) -> None:
    model = ov.Core().read_model(artifact / "openvino/openvino_model.xml")
    operations = len(model.get_ops())
    assert quantize_rows(model) == 0
    assert len(model.get_ops()) == operations


@pytest.mark.parametrize(("flags", "amx"), [("flags : avx512f amx_tile amx_int8", True), ("flags : avx512f avx512_vnni", False)])
def test_amx_is_read_off_the_flags_of_the_processor(flags: str, amx: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert has_amx(tmp_path / "cpuinfo") is amx
    assert not has_amx(tmp_path / "no such file")
