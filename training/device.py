"""The device that training runs on, the processes that share the work, and the libraries' output."""

import logging
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
import transformers
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from training.errors import TrainingError


class Device(NamedTuple):
    """The device that training runs on."""

    device: torch.device
    bf16: bool
    """Whether it computes in bf16."""
    description: str
    """The device and its precision, in words for the user."""


def choose_device() -> Device:
    """Return the GPU if there is one, else the CPU."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() != "true":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(torch.device("cuda"), bf16, f"{torch.cuda.get_device_name()}, {'bf16' if bf16 else 'fp16: it has no bf16'}")
    capabilities = torch.cpu.get_capabilities()
    bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    precision = "bf16" if bf16 else "fp32: this processor has no bf16 instructions (AVX-512 BF16, AMX or Arm's)"
    return Device(torch.device("cpu"), bf16, f"CPU, {torch.get_num_threads()} threads, {precision}")


def build_accelerator(trackers: Sequence[str] = (), directory: Path | None = None) -> Accelerator:
    """Join the processes that `accelerate launch` started beside this one, if any, and choose the experiment trackers.

    TensorBoard writes to `directory`. Collective operations time out only after hours: the other processes wait in one while the main
    process validates. Raises TrainingError if a tracker is not installed.
    """
    if missing := [name for name in trackers if LoggerType(name) not in get_available_trackers()]:
        raise TrainingError(f"--trackers {' '.join(missing)}: not installed; run `pip install {' '.join(missing)}`")
    device, bf16, _ = choose_device()
    # In fp16 accelerate scales the loss, so that small gradients do not become zero, and skips a step whose gradients overflow.
    precision = "bf16" if bf16 else "no" if device.type == "cpu" else "fp16"
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(logging_dir=directory),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )


def silence_libraries(is_main_process: bool) -> None:
    """Silence the progress bars and tables that libraries print while they read, write and compress weights.

    If stderr is not a terminal, also silence the progress bars of `datasets`. A process other than the main one prints nothing at all.
    """
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns that tied weights are saved once, as they should be
    if not is_main_process:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # stays open until the process ends
