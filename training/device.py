"""What the machine trains on."""

import torch


def choose_device() -> tuple[torch.device, bool, str]:
    """The device to train on, whether it computes in bf16, and a sentence that says why."""
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.device("cuda"), bf16, f"{torch.cuda.get_device_name()}, {'bf16' if bf16 else 'fp32: it has no bf16'}"
    capabilities = torch.cpu.get_capabilities()
    bf16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    why = "bf16" if bf16 else "fp32: this processor has no bf16 instructions (AVX-512 BF16, AMX or Arm's)"
    return torch.device("cpu"), bf16, f"CPU, {torch.get_num_threads()} threads, {why}"
