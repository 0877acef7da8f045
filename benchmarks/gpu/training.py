"""The training: Trigen's loop and TRL's, each for the same time after its first step, and train.py itself on SQuAD."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

from benchmarks.gpu.parts import Options, Result, Skipped
from benchmarks.serving.process import PROJECT
from benchmarks.train import flops_per_token, peak_memory, train_trigen, train_trl

QUICKSTART = "data/quickstart"
SECONDS, QUICK_SECONDS = 45, 2
REPEATS = 10
"""How often an epoch repeats the sequences, so that a small data set has many steps an epoch: the last step of an epoch is not full."""
PACK_LENGTH = 1024
"""The tokens of a packed row of TRL: GPT-2's positions."""
FULL_FLAGS = "--preset gpt2-squad-1gpu --epochs 3 --validations 0 --no-int8-check"
QUICK_FLAGS = "--max-steps 2 --eval-examples 4 --validations 0 --validation-examples 0 --unanswerable-share 0 --no-int8-check"


def trigen(options: Options, *, share_context: bool) -> Result:
    """Measure the loop of train.py with the steps of its preset for a GPU."""
    from training.config import PRESETS

    preset = PRESETS["gpt2-squad-1gpu"]
    steps = {"batch_tokens": 1024} if options.quick else {"batch_tokens": preset.batch_tokens, "micro_tokens": preset.micro_tokens}
    repeats = 1 if options.quick else REPEATS
    return _measure(train_trigen, options, share_context=share_context, repeats=repeats, **steps)


def trl(options: Options, variant: str) -> Result:
    """Measure TRL's SFTTrainer with steps of about as many tokens as Trigen's.

    The variants are padded rows, grouped by length; packed rows without padding, with FlashAttention if that is installed; and packed rows
    with Liger's kernels. The model is prepared as Trigen's. TRL 1.16 computes the loss in chunks in all of them.
    """
    from training.config import PRESETS

    if importlib.util.find_spec("trl") is None:
        raise Skipped("trl is not installed")
    model = options.model()
    if "Liger" in variant:
        _require_liger(model)
    tokens = 2048 if options.quick else PRESETS["gpt2-squad-1gpu"].batch_tokens
    if variant == "padded":
        return _measure(train_trl, options, prepared=True, per_device_train_batch_size=tokens // 160)
    settings: dict[str, Any] = {"packing": True, "packing_strategy": "bfd", "padding_free": True, "max_length": PACK_LENGTH}
    settings |= {"per_device_train_batch_size": tokens // PACK_LENGTH, "train_sampling_strategy": "random"}
    attention = "flash_attention_2" if importlib.util.find_spec("flash_attn") else None
    return _measure(train_trl, options, prepared=True, attention=attention, **settings, use_liger_kernel="Liger" in variant)


def _require_liger(model: str) -> None:
    if importlib.util.find_spec("liger_kernel") is None or importlib.util.find_spec("triton") is None:
        raise Skipped("liger-kernel is not installed")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers import AutoConfig

    if (architecture := AutoConfig.from_pretrained(model).model_type) not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise Skipped(f"Liger has no kernels for {architecture}")


def _measure(train: Any, options: Options, **settings: Any) -> Result:
    model = options.model()
    result: Result = train(model, options.dataset or QUICKSTART, QUICK_SECONDS if options.quick else SECONDS, **settings)
    length = result["tokens_per_second"] / result["rows_per_second"]
    return result | peak_memory() | {"flops_per_token": flops_per_token(model, length)}


def squad(options: Options) -> Result:
    """Run train.py on the whole data set, or two steps on the quickstart's if `quick`; return the metrics of its LLM."""
    from training.config import PRESETS
    from training.hub import hub_answers

    preset, output = PRESETS["gpt2-squad-1gpu"], options.directory / "squad"
    model, dataset = options.base_model, options.dataset
    if options.quick:
        model, dataset = options.model(), dataset or QUICKSTART
    elif not (model and dataset):
        online = hub_answers()
        if not dataset and not online:
            raise Skipped("the Hub does not answer: give --dataset a directory with SQuAD")
        dataset = dataset or preset.dataset
        model = model or (preset.base_model if online else options.model())
    flags = (QUICK_FLAGS if options.quick else FULL_FLAGS).split()
    flags += ["--base-model", str(model), "--dataset", str(dataset), "--only", "llm", "--output-dir", str(output), "--no-register"]
    subprocess.run([sys.executable, "train.py", *flags], cwd=PROJECT, check=True)
    metrics: Result = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["llm"]
    names = ("steps", "rows", "tokens", "seconds", "tokens_per_second", "exact_match", "f1", "questions", "bits_per_byte", "engine")
    return {name: metrics[name] for name in names} | {"base_model": model, "dataset": dataset, "flags": " ".join(flags)}
