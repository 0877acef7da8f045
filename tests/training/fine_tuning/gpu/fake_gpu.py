"""Compute forward and backward passes on tensors without data, of a device that is no CPU.

    python -m tests.training.fine_tuning.gpu.fake_gpu BASE_MODEL

PyTorch's FakeTensorMode raises an error where a result depends on data, for which a GPU and its host would have to wait for each other,
and where tensors of two devices meet. A build for CPUs cannot index fake CUDA tensors, so the device is one of Python's own.
"""

import sys
import warnings
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.attention import flex_attention
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from training.data.batching import Batch, collate
from training.data.packing import pack
from training.fine_tuning.attention import FLEX, choose_attention
from training.fine_tuning.base_model import load_base
from training.fine_tuning.objective import SupervisedLoss

ROW = {"input_ids": [5] * 40, "position_ids": [*range(30), *range(20, 30)], "segments": [0] * 20 + [1] * 10 + [2] * 10}
ROWS: list[dict[str, Any]] = [ROW | {"weights": ([0.0] * 21 + [1.0] * 9) + [0.0] + [1.0] * 9}] * 3


def move(objective: SupervisedLoss, device: torch.device) -> None:
    """Replace all parameters and buffers by fake ones on `device`, tied ones by the same one."""
    moved: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    for module in objective.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in moved:
                moved[parameter] = torch.nn.Parameter(torch.empty(parameter.shape, device=device))
            setattr(module, name, moved[parameter])
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def take_step(objective: SupervisedLoss, batch: Batch, device: torch.device) -> None:
    """Compute and clip the gradients as `FineTuner` does, and sum the loss."""
    parameters = list(objective.parameters())
    local_loss = torch.zeros((), dtype=torch.float64, device=device)
    loss = objective(batch.to(device)) / 7.0
    local_loss += loss.detach()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.device.type == device.type for parameter in parameters)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    try:
        local_loss.item()
    except DataDependentOutputException:
        return
    raise AssertionError("a fake tensor gave its value away")


def main() -> None:
    """Take a step with each attention of a GPU."""
    warnings.simplefilter("ignore")
    _setup_privateuseone_for_python_backend("gpu")
    flex_attention._validate_device = lambda *_: None
    flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    device = torch.device("gpu")
    for implementation in (FLEX, "sdpa"):
        model, _ = load_base(sys.argv[1], 256)
        choose_attention(model, torch.device("cpu"), False, 64)
        model.set_attn_implementation(implementation)
        objective = SupervisedLoss(model.train())
        with torch.compiler.set_stance("force_eager"), FakeTensorMode():
            move(objective, device)
            take_step(objective, pack(ROWS, 256) if implementation == FLEX else collate(ROWS, multiple=16), device)


if __name__ == "__main__":
    main()
