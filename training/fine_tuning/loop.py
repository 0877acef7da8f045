"""The fine-tuning loop: read `FineTuner.run` first.

Every process computes its parts of each optimizer step; which sequences are in a step, and what divides its loss, depends on the
seed and the epoch alone, so that any number of processes takes the same steps within rounding.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from training.config import Config
from training.data.batching import Batch, MicroBatches, StepSampler, collate
from training.fine_tuning.attention import attention_mask, choose_attention
from training.fine_tuning.checkpoint import read_state, save_checkpoint
from training.fine_tuning.metrics_log import MetricsLog
from training.interruption import Interrupted, Interruption

WARM_UP = 0.05
"""Share of the training in which the learning rate rises."""
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"


class SupervisedLoss(torch.nn.Module):
    """A causal LM and its weighted cross-entropy over the supervised tokens, summed.

    They are a few percent of SQuAD's tokens and the head a third of GPT-2's work, so their hidden states are selected before the head.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        """The sum of weight × nats over the batch's supervised tokens, a float32 scalar."""
        segmented = (
            {"position_ids": batch.position_ids, "attention_mask": attention_mask(self.model, batch.segments)}
            if batch.segments is not None
            else {}
        )
        hidden = self.model.base_model(input_ids=batch.input_ids, use_cache=False, **segmented).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[batch.predictors])
        return (cross_entropy(logits.float(), batch.targets, reduction="none") * batch.weights).sum()


def learning_rate(peak: float, progress: float) -> float:
    """The rate at a share of the training between 0 and 1: linear warm-up, then linear decay to zero."""
    return peak * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))


@dataclass
class Progress:
    """What the loop has done so far: all that a checkpoint holds besides tensors."""

    epoch: int = 0
    position: int = 0
    """Steps done of this epoch."""
    steps: int = 0
    rows: int = 0
    """Questions with their contexts."""
    tokens: int = 0
    """Computed, padding not counted; a context that questions share counts once."""
    seconds: float = 0.0
    """Of training: evaluations and checkpoints are not counted."""
    loss: float = 0.0
    """Exponential moving average over about ten steps, in nats per supervised token."""
    validations: int = 0
    marks: int = 0
    """How many of the even parts after which a validation is due are done: a long step may pass several."""
    best: dict[str, Any] = field(default_factory=dict)
    """The scores of the best validation so far; empty before the first."""
    stale: int = 0
    """Validations since then."""

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding not counted."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def describe(self) -> dict[str, Any]:
        """For metrics and metadata."""
        names = ("steps", "rows", "tokens", "seconds", "loss")
        return {name: getattr(self, name) for name in names} | {"tokens_per_second": self.tokens_per_second}


class FineTuner:
    """Trains `model` in place for `config.epochs` or `max_steps`, or until `seconds` are over; the schedule follows what comes first.

    `validate` is called by the main process `config.validations` times, evenly spread, with the count so far, and returns scores, `f1`
    among them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sequences: Dataset,
        config: Config,
        seconds: float | None,
        accelerator: Accelerator,
        records: MetricsLog,
        checkpoints: Path,
        validate: Callable[[Progress], dict[str, Any]],
    ) -> None:
        self.model, self.config, self.seconds, self.validate = model, config, seconds, validate
        self.accelerator, self.records, self.checkpoints = accelerator, records, checkpoints
        choose_attention(model, accelerator.device, accelerator.mixed_precision == "bf16")
        if accelerator.device.type == "cuda":  # by block: a whole model would want a dense mask and compile for minutes
            for block in blocks(model):
                block.compile(dynamic=True)
        model.to(accelerator.device)
        self.objective, self.optimizer = accelerator.prepare(SupervisedLoss(model), build_optimizer(model))
        self.sampler = StepSampler(sequences["length"], config.batch_tokens, config.seed)
        self.sequences = sequences.with_format("numpy")
        self.weights, self.questions = np.asarray(sequences["supervised"]), np.asarray(sequences["questions"])
        steps = self.sampler.count(config.epochs)
        self.total = min(steps, config.max_steps or steps)
        self.done, self.saved = Progress(), 0.0

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint as if nothing had happened."""
        self.accelerator.load_state(str(checkpoint))
        self.done = Progress(**read_state(checkpoint))
        self.saved = self.done.seconds
        self.records.cut(self.done.steps, self.done.validations)

    def run(self, interruption: Interruption) -> Progress:
        """Train to the end. Raises `Interrupted`, after a checkpoint, where a signal asked for it."""
        done, steps = self.done, self._steps()
        self.objective.train()
        bar = tqdm(total=1.0, initial=self.reached, desc="fine-tuning", bar_format=BAR, disable=not self.accelerator.is_main_process)
        with bar, interruption.deferred():
            while True:
                if done.marks < (marks := math.floor(self.config.validations * self.reached)):
                    self.save()
                    with interruption.immediate():
                        self._validate()
                    done.marks = marks
                if self.reached >= 1 or (self.config.early_stop and done.stale >= self.config.early_stop):
                    break
                asked = self._step(*next(steps), interruption)
                if asked or done.seconds - self.saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                if asked:
                    raise Interrupted(asked, saved=True)
                bar.set_postfix_str(f"step {done.steps}, loss {done.loss:.3f}, {done.tokens_per_second:,.0f} tokens/s", refresh=False)
                bar.update(self.reached - bar.n)
            self.save()
        return done

    @property
    def reached(self) -> float:
        """The share of the training that is done: of its steps or of its time, whichever is more."""
        return min(1.0, max(self.done.steps / self.total, self.done.seconds / self.seconds if self.seconds else 0.0))

    def save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        save_checkpoint(self.checkpoints, self.accelerator, self.done.steps, asdict(self.done))
        self.saved = self.done.seconds

    def _steps(self) -> Iterator[tuple[list[int], list[Batch]]]:
        """The sequences of each step, and the batches of them that this process computes, from where `done` stands."""
        accelerator, done = self.accelerator, self.done
        parts = MicroBatches(self.sampler, self.config.micro_tokens, accelerator.process_index, accelerator.num_processes)
        # Its own generator: a new iterator draws from it, which a resumed run has one more of.
        loader: DataLoader[Batch] = DataLoader(self.sequences, batch_sampler=parts, collate_fn=collate, generator=torch.Generator())
        while True:
            parts.epoch, parts.start = done.epoch, done.position
            batches = iter(loader)
            for step in self.sampler.steps(done.epoch)[done.position :]:
                yield step, [next(batches) for _ in parts.parts(step)]
            done.epoch, done.position = done.epoch + 1, 0

    def _step(self, step: list[int], batches: list[Batch], interruption: Interruption) -> int:
        """One optimizer step; returns the signal that any process was sent, or 0."""
        began, accelerator, done = time.perf_counter(), self.accelerator, self.done
        rate = learning_rate(self.config.learning_rate, max(self.reached, (done.steps + 1) / (self.total + 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weight, own_loss = float(self.weights[step].sum()), 0.0
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.objective):
                loss = self.objective(batch.to(accelerator.device)) / weight
                own_loss += loss.item()
                accelerator.backward(loss * accelerator.num_processes)  # their gradients are averaged
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        # What each process alone knows: its share of the loss and of the tokens, its clock, its signal.
        own = [own_loss, sum(batch.tokens for batch in batches), time.perf_counter() - began, interruption.requested or 0]
        every = accelerator.gather(torch.tensor([own], dtype=torch.float64, device=accelerator.device)).cpu()
        loss_sum, tokens = every[:, :2].sum(0).tolist()
        took, asked = every[:, 2:].amax(0).tolist()
        done.steps, done.position = done.steps + 1, done.position + 1
        done.rows += int(self.questions[step].sum())
        done.tokens += int(tokens)
        done.seconds += took
        done.loss += (loss_sum - done.loss) / min(done.steps, 10)
        numbers = {"loss": loss_sum, "learning_rate": rate, "gradient_norm": float(norm)}
        self.records.log("train", done.steps, **numbers, tokens_per_second=tokens / took, seconds=took)
        return int(asked)

    def _validate(self) -> None:
        done = self.done
        scores = [self.validate(done) if self.accelerator.is_main_process else None]
        result = broadcast_object_list(scores)[0]
        done.validations += 1
        if result["f1"] > done.best.get("f1", -1.0):
            done.best, done.stale = result, 0
        else:
            done.stale += 1


def build_optimizer(model: PreTrainedModel) -> torch.optim.AdamW:
    """AdamW, fused; weight decay on matrices alone (embeddings among them), not on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The transformer blocks."""
    return next(child for child in model.base_model.children() if isinstance(child, torch.nn.ModuleList))
