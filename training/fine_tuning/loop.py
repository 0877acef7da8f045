"""The fine-tuning loop: read `FineTuner.run` first.

Every process computes its share of each optimizer step. The sequences of a step and the divisor of its loss depend on the seed and
the epoch only, so any number of processes takes the same steps, up to rounding.
"""

import math
import time
from collections import defaultdict
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
from tqdm import tqdm
from transformers import PreTrainedModel

from training.checkpoint import read_state
from training.config import Config
from training.data.batching import Batch, MicroBatchSampler, StepSampler, load, load_ahead
from training.data.packing import PackedSampler
from training.fine_tuning.attention import FLEX, choose_attention
from training.fine_tuning.checkpoint import save_checkpoint
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.objective import SupervisedLoss
from training.interruption import Interruption
from training.progress import progress_bar

WARM_UP = 0.05
"""Share of the training during which the learning rate rises."""
Step = tuple[list[int], list[Batch]]
"""The indices of all sequences of a step, and the micro-batches of it that this process computes."""
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"


def learning_rate(peak: float, fraction_done: float) -> float:
    """Return the learning rate at a fraction of the training from 0 to 1: linear warm-up, then linear decay to zero."""
    return peak * min(fraction_done / WARM_UP, (1 - fraction_done) / (1 - WARM_UP))


@dataclass
class Progress:
    """The state of the loop, which a checkpoint holds besides the tensors. The field names are the keys of `state.json`."""

    epoch: int = 0
    """The current epoch, from 0."""
    position: int = 0
    """Steps taken in this epoch."""
    steps: int = 0
    """Steps taken in all epochs."""
    rows: int = 0
    """Questions trained on; one that comes up in several epochs counts each time."""
    tokens: int = 0
    """Tokens computed, without padding. A context that questions share counts once."""
    seconds: float = 0.0
    """Seconds of training, without validations and checkpoints."""
    loss: float = 0.0
    """Exponential moving average of the loss over about ten steps, in nats per supervised token."""
    validations: int = 0
    """Validations done."""
    marks: int = 0
    """Validation marks passed. `config.validations` marks divide the training evenly. A long step may pass several; one validation
    then covers them all."""
    best: dict[str, Any] = field(default_factory=dict)
    """Metrics of the validation whose weights are kept; empty before the first."""
    best_f1: float = -1.0
    """The best F1 of all validations."""
    stale: int = 0
    """Validations since the one with the best F1."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of training, without padding."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def keeps(self, metrics: dict[str, Any]) -> bool:
        """Whether to keep a validation's weights instead of the earlier ones.

        Later weights have learned more, so they are kept unless an earlier F1 was better by more than its standard error: the best of
        several validations on a few hundred questions would mostly be the luckiest.
        """
        return bool(metrics["f1"] >= self.best.get("f1", -1.0) - metrics["f1_error"])

    def summary(self) -> dict[str, Any]:
        """Return the values that belong in the model's metrics."""
        names = ("steps", "rows", "tokens", "seconds", "loss")
        return {name: getattr(self, name) for name in names} | {"tokens_per_second": self.tokens_per_second}


class FineTuner:
    """Trains `model` in place for `config.epochs`, `config.max_steps` or `seconds`, whichever ends first.

    The learning rate follows steps or time, whichever is further along. The main process calls `validate` up to `config.validations`
    times, evenly spread; `validate` returns metrics, `f1` and its standard error `f1_error` among them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sequences: Dataset,
        config: Config,
        seconds: float | None,
        accelerator: Accelerator,
        metrics_log: MetricsLog,
        checkpoints: Path,
        validate: Callable[[Progress], dict[str, Any]],
    ) -> None:
        self.model, self.config, self.seconds, self.validate = model, config, seconds, validate
        self.accelerator, self.metrics_log, self.checkpoints = accelerator, metrics_log, checkpoints
        on_gpu = accelerator.device.type == "cuda"
        model.to(accelerator.device)
        choose_attention(model, accelerator.device, accelerator.mixed_precision == "bf16", config.max_length)
        packs = model.config._attn_implementation == FLEX
        objective = SupervisedLoss(model)
        self.compiles = config.compile or (config.compile is None and on_gpu)
        if self.compiles:
            # Block by block: compiling the whole model takes minutes and needs a dense mask. DistributedDataParallel exchanges gradients of
            # a block while others are computed; dynamo would split the blocks for that, and cannot split FlexAttention.
            torch._dynamo.config.optimize_ddp = False
            for block in blocks(model):
                block.compile(dynamic=not packs)  # packed batches have one shape
        self.objective, self.optimizer = accelerator.prepare(objective, build_optimizer(model, config.bottom_rate))
        lengths, tokens, seed = sequences["length"], config.batch_tokens, config.seed
        multiple = 16 if on_gpu else 1  # tensor cores compute whole tiles, and fewer shapes compile less often
        self.sampler = PackedSampler(lengths, tokens, seed) if packs else StepSampler(lengths, tokens, seed, multiple)
        self.sequences = sequences.with_format("numpy")
        self.weights, self.questions = np.asarray(sequences["supervised"]), np.asarray(sequences["questions"])
        steps = self.sampler.count(config.epochs)
        self.max_steps = min(steps, config.max_steps or steps)
        self.progress = Progress()
        self.saved_at = 0.0
        """`progress.seconds` at the last checkpoint."""

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        self.accelerator.load_state(str(checkpoint))
        self.progress = Progress(**read_state(checkpoint))
        self.saved_at = self.progress.seconds
        self.metrics_log.truncate(self.progress.steps, self.progress.validations)

    def run(self, interruption: Interruption) -> Progress:
        """Train to the end: take steps until the next validation, save a checkpoint, validate, repeat.

        A signal raises `Interrupted`: while training, once a checkpoint is written; while validating, at once.
        """
        self.objective.train()
        if self.compiles:
            self._warm_up()
        steps = self._load_steps()
        is_main = self.accelerator.is_main_process
        with progress_bar(total=1.0, initial=self.fraction_done, desc="fine-tuning", bar_format=BAR, disable=not is_main) as bar:
            while True:
                with interruption.deferred():
                    self._train_until_validation(steps, bar, interruption)
                    self.save()
                if not self._needs_validation:  # so the training is finished; a signal would have raised
                    return self.progress
                self._validate()

    @property
    def fraction_done(self) -> float:
        """The fraction of the training that is done, by steps or by time, whichever is further."""
        by_time = self.progress.seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(self.progress.steps / self.max_steps, by_time))

    @property
    def finished(self) -> bool:
        """Whether the steps or the time are used up, or validations have stopped improving."""
        return self.fraction_done >= 1 or (self.config.early_stop is not None and self.progress.stale >= self.config.early_stop)

    def save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        save_checkpoint(self.checkpoints, self.accelerator, self.progress.steps, asdict(self.progress))
        self.saved_at = self.progress.seconds

    @property
    def _marks_reached(self) -> int:
        return math.floor(self.config.validations * self.fraction_done)

    @property
    def _needs_validation(self) -> bool:
        return self.progress.marks < self._marks_reached

    def _train_until_validation(self, steps: Iterator[Step], bar: "tqdm[Any]", interruption: Interruption) -> None:
        """Take steps until a validation mark is passed, the training is finished, or any process has received a signal."""
        progress = self.progress
        while not self._needs_validation and not self.finished:
            started = time.perf_counter()
            signal_number = self._take_step(*next(steps), started, interruption)
            speed = f"{progress.tokens_per_second:,.0f} tokens/s"
            bar.set_postfix_str(f"step {progress.steps}, loss {progress.loss:.3f}, {speed}", refresh=False)
            bar.update(self.fraction_done - bar.n)
            if signal_number:
                interruption.requested = signal_number  # in every process, so that all of them stop after this step
                return
            if progress.seconds - self.saved_at > 60 * self.config.checkpoint_minutes:
                self.save()

    def _warm_up(self) -> None:
        """Compile the blocks before the clock starts: compute gradients of a batch, and drop them. Leaves the random state as it is."""
        micro_tokens, processes = self.config.micro_tokens, self.accelerator.num_processes
        rows = self.sampler.split(self.sampler.steps(0)[0], micro_tokens, processes)[0]
        batch = self.sampler.collate_fn(micro_tokens, processes)([self.sequences[row] for row in rows])
        with torch.random.fork_rng():
            self.accelerator.backward(self.objective(batch.to(self.accelerator.device)))
        self.optimizer.zero_grad(set_to_none=True)

    def _load_steps(self) -> Iterator[Step]:
        """Yield the steps from `progress` on, one epoch after the other, without end."""
        accelerator, progress = self.accelerator, self.progress
        on_gpu = accelerator.device.type == "cuda"
        batch_sampler = MicroBatchSampler(self.sampler, self.config.micro_tokens, accelerator.process_index, accelerator.num_processes)
        loader = load(self.sequences, batch_sampler, pin_memory=on_gpu)
        while True:
            batch_sampler.epoch, batch_sampler.start = progress.epoch, progress.position
            batches = load_ahead(iter(loader)) if on_gpu else iter(loader)
            for step in self.sampler.steps(progress.epoch)[progress.position :]:
                yield step, [next(batches) for _ in batch_sampler.micro_batches(step)]
            progress.epoch, progress.position = progress.epoch + 1, 0

    def _take_step(self, step: list[int], batches: list[Batch], started: float, interruption: Interruption) -> int:
        """Take one optimizer step and log it. Return the signal that any process has received, or 0.

        `started` is the time, from `time.perf_counter`, at which the process began to load the step.
        """
        accelerator, progress = self.accelerator, self.progress
        # The rate is zero at 0 and at 1. Counting from 1 to max_steps of max_steps + 1, no step gets a rate of zero.
        rate = learning_rate(self.config.learning_rate, max(self.fraction_done, (progress.steps + 1) / (self.max_steps + 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        total_weight = float(self.weights[step].sum())
        local_loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)  # stays there: reading it would wait for the GPU
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.objective):
                loss = self.objective(batch.to(accelerator.device)) / total_weight
                local_loss += loss.detach()
                accelerator.backward(loss * accelerator.num_processes)  # DistributedDataParallel averages the gradients; we want their sum
        norm = accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        if accelerator.device.type != "cpu":  # a GPU has only been told what to compute
            torch.accelerator.synchronize()
        # Gather what each process alone knows: its share of the loss and of the tokens, its clock, its signal.
        local = [float(local_loss), sum(batch.tokens for batch in batches), time.perf_counter() - started, interruption.requested or 0]
        gathered = accelerator.gather(torch.tensor([local], dtype=torch.float64, device=accelerator.device)).cpu()
        step_loss, tokens = gathered[:, :2].sum(0).tolist()
        seconds, signal_number = gathered[:, 2:].amax(0).tolist()
        progress.steps, progress.position = progress.steps + 1, progress.position + 1
        progress.rows += int(self.questions[step].sum())
        progress.tokens += int(tokens)
        progress.seconds += seconds
        progress.loss += (step_loss - progress.loss) / min(progress.steps, 10)
        values = {"loss": step_loss, "learning_rate": rate, "gradient_norm": float(norm)}
        self.metrics_log.log("train", progress.steps, **values, tokens_per_second=tokens / seconds, seconds=seconds)
        return int(signal_number)

    def _validate(self) -> None:
        """Validate in the main process, and record the result in every process."""
        progress = self.progress
        results = [self.validate(progress) if self.accelerator.is_main_process else None]
        metrics = broadcast_object_list(results)[0]
        progress.validations, progress.marks = progress.validations + 1, self._marks_reached
        if progress.keeps(metrics):
            progress.best = metrics
        progress.stale = 0 if metrics["f1"] > progress.best_f1 else progress.stale + 1
        progress.best_f1 = max(progress.best_f1, metrics["f1"])


def build_optimizer(model: PreTrainedModel, bottom_rate: float) -> torch.optim.AdamW:
    """Return a fused AdamW with weight decay on matrices, including embeddings, but not on biases and norms.

    Each parameter group has a `scale`, its share of the learning rate (see `learning_rate_scales`).
    """
    scales = learning_rate_scales(model, bottom_rate)
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        groups[scales[parameter], parameter.dim() >= 2].append(parameter)
    settings = [
        {"params": members, "scale": scale, "weight_decay": 0.01 if is_matrix else 0.0} for (scale, is_matrix), members in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=(0.9, 0.95), fused=True)


def learning_rate_scales(model: PreTrainedModel, bottom_rate: float) -> dict[torch.nn.Parameter, float]:
    """Return the share of the learning rate that each parameter learns with.

    It falls geometrically from 1 in the last block to `bottom_rate` in the first one and in the embeddings: the lower a layer, the more
    general is what it holds (Howard & Ruder, arXiv:1801.06146, section 3.2; Clark et al., arXiv:2003.10555, appendix B).
    """
    layers = blocks(model)
    top = len(layers) - 1
    scales = {parameter: bottom_rate for parameter in model.base_model.parameters() if parameter.dim() >= 2}  # embeddings, so far
    scales |= {p: bottom_rate ** ((top - i) / top if top else 0) for i, block in enumerate(layers) for p in block.parameters()}
    return {parameter: scales.get(parameter, 1.0) for parameter in model.parameters()}


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    """Return the transformer blocks: the outermost list of modules. OPT's is not a child of its base model, but of the decoder there."""
    return next(module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
