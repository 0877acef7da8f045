"""Low-rank adapters and gradient checkpointing: what is trained, what is exported, and that the loss stays the same."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.architectures import build
from training.config import Config
from training.data.encoding import EncodingConfig, encode
from training.data.squad import load_splits
from training.device import build_accelerator
from training.export.artifact import save_artifact
from training.fine_tuning.base_model import add_adapters, load_base
from training.fine_tuning.loop import FineTuner
from training.fine_tuning.metrics_log import MetricsLog
from training.interruption import Interruption

IDS = torch.arange(5, 69)[None]


def take_steps(model: PreTrainedModel, base: Path, directory: Path, steps: int) -> FineTuner:
    sequences = encode(load_splits("data/quickstart").train, AutoTokenizer.from_pretrained(base), EncodingConfig(max_length=768))
    config = Config(max_steps=steps, batch_tokens=768, max_length=768, validations=0, learning_rate=1e-2)
    accelerator = build_accelerator()
    log = MetricsLog(directory, accelerator)
    tuner = FineTuner(model, sequences, config, None, accelerator, log, directory / "checkpoints", lambda _: {})
    tuner.run(Interruption())
    log.close()
    return tuner


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_adapters_alone_learn_and_the_artifact_has_them_in_its_weights(name: str, tiny_base: Path, tmp_path: Path) -> None:
    base, tokenizer = load_base(str(tiny_base), 768)
    model = base if name == "gpt2" else build(name)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        expected = model.eval()(input_ids=IDS).logits
        add_adapters(model, 4)
        assert model(input_ids=IDS).logits.equal(expected)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert 0 < sum(weight.numel() for weight in trained) < sum(weight.numel() for weight in weights.values()) / 10

    tuner = take_steps(model, tiny_base, tmp_path, 4)
    assert sum(len(group["params"]) for group in tuner.optimizer.param_groups) == len(trained)
    assert all(weight.equal(weights[name.replace(".base_layer", "")]) for name, weight in model.state_dict().items() if "lora" not in name)
    save_artifact(model, tokenizer, tmp_path / "llm", "context-first")
    model.set_attn_implementation("sdpa")  # the training has chosen one that needs autocast
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "llm", dtype=torch.float32)
    assert exported.state_dict().keys() == weights.keys()
    with torch.no_grad():
        logits, tuned = exported(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits
    assert (logits - tuned).norm() < 0.25 * (tuned - expected).norm()  # the artifact is in bf16
    assert any("lora_A" in name for name, _ in model.named_parameters())  # saving has left the model as it was


@pytest.mark.parametrize("rank", [None, 4])
def test_gradient_checkpointing_takes_the_same_steps(tiny_base: Path, tmp_path: Path, rank: int | None) -> None:
    losses = []
    for checkpointing in (False, True):
        model, _ = load_base(str(tiny_base), 768)
        torch.manual_seed(0)
        if rank:
            add_adapters(model, rank)
        if checkpointing:
            model.activation_checkpointing_enable()
        tuner = take_steps(model, tiny_base, tmp_path / str(checkpointing), 3)
        losses.append([line["loss"] for line in tuner.metrics_log.read("train")])
    assert losses[0] == losses[1]
