"""Train the LSTM language model of `training/word_models/lstm.py`: read `LSTMTrainer.run` first.

As in Merity et al. 2017 (https://arxiv.org/abs/1708.02182), the text is contiguous and back-propagation truncated. The optimizer,
however, is AdamW, not averaged SGD, and its learning rate falls linearly over the epochs or the minutes.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from models.words import UNKNOWN
from training.checkpoint import begin_checkpoint, checkpoint_path, finish_checkpoint, is_complete, read_state, unfinished_path
from training.interruption import Interruption
from training.progress import progress_bar
from training.word_models.lstm import LSTMConfig, LSTMLanguageModel, State

MIN_WINDOWS = 32
"""The minimum number of windows, and so of updates, in an epoch. A small corpus is read in fewer streams to reach it."""
RATE_DIVISOR = 4
"""After an epoch without improvement, restore the best weights and divide the learning rate by this, as PyTorch's example
does (https://github.com/pytorch/examples/tree/main/word_language_model)."""
PATIENCE = 3
"""Stop after this many epochs in a row without improvement."""
SHOW_SECONDS = 0.5
"""Time between two readings of the loss for the progress bar. Each waits for a GPU, which otherwise works ahead of the clock."""
TENSORS = "tensors.safetensors"
"""The file of a checkpoint with everything but `Progress`."""


@dataclass(frozen=True)
class Window:
    """The words that a step reads, and the words after them, both of shape (streams, time)."""

    inputs: Tensor
    targets: Tensor
    rare_inputs: list[Tensor]
    """`TiedWords.find_rare(inputs)`. Found once, before the training, so that no step waits for a GPU."""
    rare_targets: list[Tensor]
    """`TiedWords.find_rare(targets)`."""


@dataclass
class Progress:
    """The state of the training, which a checkpoint holds besides the tensors. The field names are the keys of `state.json`."""

    epochs: int = 0
    """Finished epochs."""
    position: int = 0
    """Windows read in this epoch."""
    steps: int = 0
    """Windows read in all epochs."""
    words: int = 0
    """Words read in all epochs."""
    rate_factor: float = 1.0
    """The learning rate is multiplied by this; each epoch without improvement divides it by `RATE_DIVISOR`."""
    best_loss: float = math.inf
    """The lowest cross-entropy on the held-out texts so far, in nats per word."""
    best_epoch: int = 0
    """The epoch with the lowest loss; 0 before the end of the first."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """For each epoch: the words read so far, and the cross-entropy on training texts and on held-out texts."""
    seconds: float = 0.0
    """Seconds of training, with the measurements after each epoch and without checkpoints, at the time of the checkpoint."""


def cut_windows(ids: Tensor, streams: int, window: int) -> list[tuple[Tensor, Tensor]]:
    """Cut a text into up to `streams` parallel streams, and those into windows of `window` words.

    Returns the inputs and targets of each window, shape (streams, window) each; the last window may be shorter. Ids left
    over after cutting equally long streams are dropped. A small corpus gets fewer streams: see `MIN_WINDOWS`.
    """
    streams = max(1, min(streams, (len(ids) - 1) // (MIN_WINDOWS * window)))
    length = (len(ids) - 1) // streams
    inputs = ids[: streams * length].view(streams, length)
    targets = ids[1 : 1 + streams * length].view(streams, length)
    return [(inputs[:, start : start + window], targets[:, start : start + window]) for start in range(0, length, window)]


class LSTMTrainer:
    """Trains a model for up to `max_epochs` epochs or `max_seconds`, and keeps the best weights."""

    def __init__(
        self,
        model: LSTMLanguageModel,
        config: LSTMConfig,
        windows: list[Window],
        max_epochs: int,
        max_seconds: float | None,
        bf16: bool,
        checkpoints: Path,
        checkpoint_minutes: float,
    ) -> None:
        self.model, self.config, self.windows, self.bf16 = model, config, windows, bf16
        self.max_epochs, self.max_seconds = max_epochs, max_seconds
        self.checkpoints, self.checkpoint_minutes = checkpoints, checkpoint_minutes
        self.device = windows[0].inputs.device
        self.random = torch.cuda if self.device.type == "cuda" else torch
        """The module with the state of the generator from which the dropout draws."""
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in model.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.progress = Progress()
        self.best_state = model.state_dict()
        """The weights of the best epoch; those of the model itself before the end of the first."""
        self.state: State | None = None
        """The state of the LSTM after the last window; None at the beginning of an epoch."""
        self.started, self.saved_at, self.shown_at = time.perf_counter(), 0.0, -math.inf
        """The start of the clock, and what `seconds` was at the last checkpoint and at the last look at the loss."""

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint as if the run had never stopped."""
        self.progress = Progress(**read_state(checkpoint))
        self.started, self.saved_at = time.perf_counter() - self.progress.seconds, self.progress.seconds
        groups: dict[str, dict[str, Tensor]] = {group: {} for group in ("model", "best", "moments", "state", "random")}
        for name, tensor in load_file(checkpoint / TENSORS).items():
            group, _, member = name.partition(".")
            groups[group][member] = tensor
        self.model.load_state_dict(groups["model"])
        if self.progress.best_epoch:
            self.best_state = groups["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for member, tensor in groups["moments"].items():
            parameter, name = member.split(".")
            moments.setdefault(int(parameter), {})[name] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        if parts := groups["state"]:
            self.state = [(parts[f"{n}.0"].to(self.device), parts[f"{n}.1"].to(self.device)) for n in range(self.config.layers)]
        self.random.set_rng_state(groups["random"]["generator"])

    def save(self) -> None:
        """Write a checkpoint, unless this step has one. The clock stands still meanwhile."""
        seconds, checkpoint = self.seconds, checkpoint_path(self.checkpoints, self.progress.steps)
        if not is_complete(checkpoint):
            moments = self.optimizer.state_dict()["state"]
            groups = {  # the rest of the optimizer's state is its settings
                "model": self.model.state_dict(),
                "best": self.best_state if self.progress.best_epoch else {},
                "moments": {f"{n}.{name}": tensor for n, members in moments.items() for name, tensor in members.items()},
                "state": {f"{n}.{part}": tensor for n, layer in enumerate(self.state or ()) for part, tensor in enumerate(layer)},
                "random": {"generator": self.random.get_rng_state()},
            }
            tensors = {f"{group}.{name}": tensor.contiguous() for group, members in groups.items() for name, tensor in members.items()}
            begin_checkpoint(checkpoint)
            save_file(tensors, unfinished_path(checkpoint) / TENSORS)
            finish_checkpoint(checkpoint, asdict(self.progress) | {"seconds": seconds})
        self.started, self.saved_at = time.perf_counter() - seconds, seconds

    def run(self, measure: Callable[[], tuple[float, float]], interruption: Interruption) -> None:
        """Train to the end, and write a checkpoint there. A signal ends the training early: it raises `Interrupted` after the checkpoint.

        `measure` returns the cross-entropy on training texts and on held-out texts; it is called after each epoch.
        """
        bar_format = "{desc} {percentage:3.0f}%{postfix} |{bar}|"
        with interruption.deferred(), progress_bar(total=1.0, initial=self.fraction_done, desc="LSTM", bar_format=bar_format) as bar:
            while not self.finished and not interruption.requested:
                self._train_epoch(bar, interruption)
                if self.progress.position and not interruption.requested:
                    self._finish_epoch(*measure())
            self.save()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, with the measurements after each epoch and without checkpoints."""
        return time.perf_counter() - self.started

    @property
    def fraction_done(self) -> float:
        """The fraction of the training that is done, by epochs or by time, whichever is further."""
        by_time = self.seconds / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max((self.progress.epochs + self.progress.position / len(self.windows)) / self.max_epochs, by_time))

    @property
    def finished(self) -> bool:
        """Whether the epochs or the time are used up, or the last `PATIENCE` epochs brought no improvement.

        An epoch that has begun is measured first, even if the time has ended it.
        """
        out_of_patience = self.progress.epochs - self.progress.best_epoch >= PATIENCE
        return not self.progress.position and (out_of_patience or self.fraction_done >= 1)

    def train_window(self, window: Window, rate: float) -> Tensor:
        """Take an optimizer step, and return its loss in nats per word. Does not wait for a GPU to compute it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs, self.state = self.model(window.inputs, self.state, window.rare_inputs)
            loss = self.model.words.loss(outputs.flatten(0, 1), window.targets.flatten(), window.rare_targets).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        return loss.detach()

    def _train_epoch(self, bar: "tqdm[Any]", interruption: Interruption) -> None:
        """Train on the rest of the epoch, until the time is used up or a signal asks the run to end."""
        self.model.train()
        progress = self.progress
        for window in self.windows[progress.position :]:
            done = self.fraction_done
            if done >= 1 or interruption.requested:
                return
            loss = self.train_window(window, self.config.learning_rate * (1 - done) * progress.rate_factor)
            progress.position, progress.steps = progress.position + 1, progress.steps + 1
            progress.words += window.targets.numel()
            if self.seconds - self.shown_at > SHOW_SECONDS:
                self._show_progress(bar, done, loss.item())
            if self.seconds - self.saved_at > 60 * self.checkpoint_minutes:
                self.save()

    def _finish_epoch(self, train_loss: float, held_out_loss: float) -> None:
        """Record an epoch. Keep its weights if they are the best so far, else restore the best and lower the learning rate."""
        progress = self.progress
        progress.epochs, progress.position, self.state = progress.epochs + 1, 0, None
        progress.curve.append({"words": progress.words, "train": train_loss, "held_out": held_out_loss})
        if held_out_loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = held_out_loss, progress.epochs
            self.best_state = copy.deepcopy(self.model.state_dict())
        else:
            progress.rate_factor /= RATE_DIVISOR
            self.model.load_state_dict(self.best_state)

    def _show_progress(self, bar: "tqdm[Any]", done: float, loss: float) -> None:
        progress, seconds = self.progress, self.seconds
        left = f"{bar.format_interval(seconds * (1 - done) / done)} left, " if done > 0.01 else ""
        held_out = f", held out {progress.best_loss:.3f}" if progress.curve else ""
        speed = f"{progress.words / seconds:,.0f} words/s"
        bar.set_postfix_str(f"{left}epoch {progress.epochs + 1}, loss {loss:.3f}{held_out}, {speed}", refresh=False)
        bar.update(done - bar.n)
        self.shown_at = seconds


@torch.no_grad()
def mean_loss(model: LSTMLanguageModel, ids: Tensor, config: LSTMConfig) -> float:
    """Return the cross-entropy of a text in nats per word. Boundaries between texts count; words outside the vocabulary do not."""
    model.eval()
    state, total, count = None, 0.0, 0
    for inputs, targets in cut_windows(ids, config.streams, config.window):
        outputs, state = model(inputs, state)
        known = targets != UNKNOWN
        total += float(model.words.loss(outputs[known], targets[known]).sum())
        count += int(known.sum())
    return total / count if count else math.inf
