"""What the machine trains on, by itself or with others."""

import logging
import os
import sys
from datetime import timedelta

import torch
import transformers
from accelerate import Accelerator, InitProcessGroupKwargs


def choose_device() -> tuple[torch.device, bool, str]:
    """The device to train on, whether it computes in bf16, and a sentence that says why."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() != "true":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.device("cuda"), bf16, f"{torch.cuda.get_device_name()}, {'bf16' if bf16 else 'fp32: it has no bf16'}"
    capabilities = torch.cpu.get_capabilities()
    bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    why = "bf16" if bf16 else "fp32: this processor has no bf16 instructions (AVX-512 BF16, AMX or Arm's)"
    return torch.device("cpu"), bf16, f"CPU, {torch.get_num_threads()} threads, {why}"


def build_accelerator() -> Accelerator:
    """Join the processes, if any, that `accelerate launch` started beside this one.

    They wait for hours if need be: the main process alone counts, fits the LSTM, exports and evaluates.
    """
    device, bf16, _ = choose_device()
    waits = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if bf16 else "no", kwargs_handlers=[waits])


def silence_libraries(speaks: bool) -> None:
    """Silence the progress bars and the tables of libraries that print while weights are read, written and compressed; and, unless
    this process `speaks` for all, whatever it prints.
    """
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("nncf").setLevel(logging.WARNING)
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # that tied weights are saved once is as it should be
    if not speaks:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
