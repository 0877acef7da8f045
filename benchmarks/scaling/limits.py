"""The limits that the machine sets: how fast it reads memory, and its rates of matrix products as OpenVINO reaches them.

`limits` starts this module as a separate process, because OpenVINO and torch choose their threads when they are loaded.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.serving.process import PROJECT
from models.engines import processors

SIZE, PRODUCTS = 2048, 4
MATRIX_PRODUCTS = ("FullyConnected", "MatMul")
"""OpenVINO's names of an operation that multiplies matrices."""


def cores() -> list[int]:
    """Return one logical processor for each core that this process may use."""
    return [min(core) for core in processors.cores()]


@contextmanager
def confined(cpus: Collection[int]) -> Iterator[None]:
    """Confine the processes that start within to these logical processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def limits(cpus: Collection[int], weight_bytes: int, seconds: float) -> dict[str, Any]:
    """Return the limits of these processors: `read_rate` and, for int8 and bf16, `product_rate`. Each is measured for `seconds`."""
    command = [sys.executable, "-m", __name__, str(weight_bytes), str(seconds)]
    with confined(cpus):
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def read_rate(size: int, seconds: float) -> float:
    """Return the most bytes/s at which all threads together read a buffer of `size` bytes again and again.

    One as large as the weights is read as they are in a step that generates one token, from a cache if they fit.
    """
    import torch

    buffer, vector = torch.ones(size // 4096, 1024), torch.ones(1024)
    return 4 * buffer.numel() / _shortest_time(lambda: buffer @ vector, seconds)


def product_rate(precision: str, seconds: float, size: int = SIZE) -> tuple[float, str]:
    """Return the most operations/s in products of square matrices in int8 or bf16, and the name of OpenVINO's kernel.

    The products are a chain, each with weights of its own, as in a model; in int8, `FakeQuantize` has static scales for both operands.
    """
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    def quantized(node: Any, bound: float, levels: int) -> Any:
        low, high = np.float32(-bound), np.float32(bound)
        return ops.fake_quantize(node, low, high, low, high, levels)

    rng = np.random.default_rng(0)
    inputs = ops.parameter([size, size], ov.Type.f32)
    outputs: Any = inputs
    for _ in range(PRODUCTS):
        weights: Any = ops.constant(rng.standard_normal((size, size), dtype=np.float32) / size**0.5)
        if precision == "int8":
            outputs, weights = quantized(outputs, 4, 256), quantized(weights, 4 / size**0.5, 255)
        outputs = ops.matmul(outputs, weights, False, True)
    properties = {"INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else "bf16", "PERF_COUNT": "YES"}
    request = ov.Core().compile_model(ov.Model([outputs], [inputs], "products"), "CPU", properties).create_infer_request()
    request.set_input_tensor(ov.Tensor(rng.standard_normal((size, size), dtype=np.float32)))
    rate = PRODUCTS * 2 * size**3 / _shortest_time(request.infer, seconds)
    return rate, next(node.exec_type for node in request.profiling_info if node.node_type in MATRIX_PRODUCTS)


def _shortest_time(run: Callable[[], Any], seconds: float) -> float:
    """Return the shortest time of `run` within `seconds`: a limit is what the machine can do when nothing disturbs it."""
    run()  # warm-up
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print the limits of the processors of this process as JSON."""
    weight_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    measured: dict[str, Any] = {"bytes_per_second": read_rate(weight_bytes, seconds)}
    for precision in ("int8", "bf16"):
        measured[precision], measured[f"{precision}_kernel"] = product_rate(precision, seconds)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
