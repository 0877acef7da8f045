"""The fine-tuning loop: bf16 autocast, the head on supervised positions alone, AdamW, warm-up and linear decay."""

import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from training.batching import Batch, LengthBatchSampler
from training.device import choose_device
from training.errors import TrainingError, first_line

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""


def load_base(source: str, max_length: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in fp32 and its tokenizer, from a Hub id or a directory. Raises TrainingError where it is out of reach, does
    not hold rows of `max_length` tokens, or could not learn to end a text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except Exception as error:  # each broken file, unknown architecture and absent Hub raises its own
        raise TrainingError(
            f"base model {source} cannot be loaded ({first_line(error)}): give --base-model a Hub id that can be reached or a local "
            "directory of a causal LM, or run --preset quickstart, which needs no Hub"
        ) from error
    if (longest := getattr(model.config, "max_position_embeddings", max_length)) < max_length:
        raise TrainingError(f"base model {source} reads {longest} tokens at most: give --max-length no more")
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"base model {source}: its tokenizer has no token that ends a text, so it could not learn to stop")
    return _without_waste(model), tokenizer


def _without_waste(model: PreTrainedModel) -> PreTrainedModel:
    # GPT-2's gelu_new is gelu_pytorch_tanh written out; the latter is one fused kernel. Attention dropout takes SDPA off
    # its fast path on a CPU.
    if getattr(model.config, "activation_function", None) == "gelu_new":
        model.config.activation_function = "gelu_pytorch_tanh"
        for module in model.modules():
            for name, child in module.named_children():
                if type(child).__name__ == "NewGELUActivation":
                    setattr(module, name, torch.nn.GELU(approximate="tanh"))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def supervised_loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the supervised tokens.

    They are about 3 % of SQuAD's tokens and the head a third of GPT-2's work, so their hidden states are selected before the head.
    """
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[batch.positions])
    return cross_entropy(logits.float(), batch.targets)


def learning_rate(peak: float, progress: float) -> float:
    """The rate at a share of the training between 0 and 1: linear warm-up, then linear decay to zero."""
    return peak * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))


@dataclass
class Progress:
    """What the loop has done so far."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    """Padding not counted."""
    seconds: float = 0.0
    loss: float = 0.0
    """Exponential moving average over about ten steps, in nats per supervised token."""

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def describe(self) -> dict[str, Any]:
        """For metrics and metadata."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second}


def fine_tune(
    model: PreTrainedModel,
    loader: DataLoader[Batch],
    sampler: LengthBatchSampler,
    *,
    epochs: int,
    seconds: float | None,
    peak_rate: float,
) -> Progress:
    """Train `model` in place for `epochs`, or until `seconds` are over; the schedule follows whichever comes first."""
    device, bf16, _ = choose_device()
    model.train()
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its type
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    total, done, began = sampler.count(epochs), Progress(), time.perf_counter()
    with tqdm(total=1.0, desc="fine-tuning", bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}") as bar:
        for batch in itertools.chain.from_iterable(_epoch(loader, sampler, epoch) for epoch in range(epochs)):
            progress = max((done.steps + 1) / (total + 1), done.seconds / seconds if seconds else 0.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(peak_rate, progress)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = supervised_loss(model, batch.to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done.steps += 1
            done.rows += len(batch.input_ids)
            done.tokens += batch.tokens
            done.loss += (loss.item() - done.loss) / min(done.steps, 10)
            done.seconds = time.perf_counter() - began
            reached = max(done.steps / total, done.seconds / seconds if seconds else 0.0)
            bar.set_postfix_str(f"step {done.steps}, loss {done.loss:.3f}, {done.tokens_per_second:,.0f} tokens/s", refresh=False)
            bar.update(min(reached, 1.0) - bar.n)
            if reached >= 1:
                break
    model.eval()
    return done


def _epoch(loader: DataLoader[Batch], sampler: LengthBatchSampler, epoch: int) -> DataLoader[Batch]:
    sampler.set_epoch(epoch)
    return loader
