"""The machine that is measured."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import psutil

from benchmarks.gpu.parts import Options, Result
from benchmarks.train import matrix_rate

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "bentoml", "trl", "liger-kernel", "flash-attn", "vllm")


def describe(options: Options) -> Result:
    """Return the GPU, the processor, the versions, and the rate of a bf16 matrix product in FLOP/s."""
    import torch

    versions = {name: _version(name) for name in PACKAGES}
    described: Result = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU",
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "packages": {name: version for name, version in versions.items() if version},
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        described |= {"gpus": torch.cuda.device_count(), "gpu_memory_gb": total / 1e9, "gpu_free_gb": free / 1e9}
        size = 8192  # a smaller product takes less time than its launch
    else:
        size = 512 if options.quick else 2048
    return described | {"matrix_size": size, "matrix_flops": matrix_rate(size, 0.5 if options.quick else 5)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the name of the processor."""
    try:
        names = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = None
    return names[1] if names else platform.machine()
