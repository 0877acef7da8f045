"""Fit the LSTM language model with torch. `models/rnn.py` runs it, and explains how its words are embedded.

After Merity et al. 2017 (Regularizing and Optimizing LSTM Language Models, https://arxiv.org/abs/1708.02182): tied
embeddings, locked dropout, truncated back-propagation through contiguous text. The optimizer, however, is AdamW, not
averaged SGD, and its learning rate falls linearly over the epochs or the minutes.
"""

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear
from tqdm import tqdm

from models.spelling import Spelling
from models.words import UNKNOWN, Vocabulary, tokenize
from training.device import choose_device
from training.progress import progress_bar


@dataclass(frozen=True)
class LSTMConfig:
    """The sizes of the model and the hyperparameters of its training."""

    width: int = 384
    layers: int = 2
    cutoffs: tuple[int, ...] = (2_000, 10_000)
    """The first id of each band of rarer words. The words below the first cutoff are the shortlist."""
    narrowing: int = 2
    """The word vectors of each band are this many times narrower than those of the more frequent words before it."""
    streams: int = 32
    """The batch size: the number of places at which the text is read in parallel."""
    window: int = 32
    """The number of words after which back-propagation is truncated."""
    learning_rate: float = 5e-3
    dropout: float = 0.4
    weight_decay: float = 0.01
    clip: float = 0.5
    """The maximum norm of the gradient."""
    vocabulary_size: int = 30_000


MIN_WINDOWS = 32
"""The minimum number of windows, and so of updates, in an epoch. A small corpus is read in fewer streams to reach it."""
RATE_DIVISOR = 4
"""After an epoch without improvement, restore the best weights and divide the learning rate by this, as PyTorch's example
does (https://github.com/pytorch/examples/tree/main/word_language_model)."""
PATIENCE = 3
"""Stop after this many epochs in a row without improvement."""


class LockedDropout(nn.Module):
    """Dropout with the same mask for all steps of a window (Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero the same features at every step of `x`, shape (batch, time, width)."""
        if not self.training or not self.rate:
            return x
        mask = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.rate)
        return x * mask.div_(1 - self.rate)


class Band(nn.Module):
    """The narrow vectors of rarer words, and their projection to the model's width."""

    def __init__(self, size: int, narrow: int, width: int) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(size, narrow) / math.sqrt(narrow))
        self.projection = nn.Parameter(torch.randn(narrow, width) / math.sqrt(width))


class TiedWords(nn.Module):
    """Word vectors for both the input embedding and the output layer, adaptive in both: see `models/rnn.py`."""

    def __init__(self, vocabulary_size: int, config: LSTMConfig) -> None:
        super().__init__()
        cutoffs = [cutoff for cutoff in config.cutoffs if cutoff < vocabulary_size]
        # Band n holds the ids from cutoff n up to cutoff n + 1, so the last cutoff is the size of the vocabulary.
        self.cutoffs = [*cutoffs, vocabulary_size]
        self.shortlist = self.cutoffs[0]
        self.head = nn.Parameter(torch.randn(self.shortlist + len(cutoffs), config.width) / math.sqrt(config.width))
        self.bias = nn.Parameter(torch.zeros(len(self.head)))
        self.bands = nn.ModuleList()
        for n in range(len(cutoffs)):
            narrow = max(8, config.width // config.narrowing ** (n + 1))
            self.bands.append(Band(self.cutoffs[n + 1] - self.cutoffs[n], narrow, config.width))

    def _bands_with_ids(self) -> list[tuple[Band, int, int]]:
        """Return each band with its first id and the id after its last."""
        return [(cast(Band, band), start, end) for band, start, end in zip(self.bands, self.cutoffs, self.cutoffs[1:], strict=False)]

    def embed(self, words: Tensor) -> Tensor:
        """Return the vectors of `words`, ids of any shape (…), as shape (…, width)."""
        vectors = embedding(words.clamp(max=self.shortlist - 1), self.head)  # the bands' words are overwritten below
        for band, start, end in self._bands_with_ids():
            in_band = (words >= start) & (words < end)
            rare = linear(band.words[words[in_band] - start], band.projection.t())
            vectors = vectors.masked_scatter(in_band[..., None], rare.to(vectors.dtype))
        return vectors

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return -log P of each of `targets` (n,) given `outputs` (n, width), shape (n,), in nats."""
        column = targets
        for n, start in enumerate(self.cutoffs[:-1]):
            column = torch.where(targets >= start, self.shortlist + n, column)
        losses = cross_entropy(linear(outputs, self.head, self.bias).float(), column, reduction="none")
        for band, start, end in self._bands_with_ids():
            rows = ((targets >= start) & (targets < end)).nonzero()[:, 0]
            logits = linear(linear(outputs[rows], band.projection), band.words)
            losses = losses.index_add(0, rows, cross_entropy(logits.float(), targets[rows] - start, reduction="none"))
        return losses


class LSTMLanguageModel(nn.Module):
    """LSTM layers between an input embedding and an output layer that share their weights."""

    def __init__(self, vocabulary_size: int, config: LSTMConfig) -> None:
        super().__init__()
        self.words = TiedWords(vocabulary_size, config)
        self.layers = nn.ModuleList(nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.layers))
        self.dropout = LockedDropout(config.dropout)

    def forward(self, words: Tensor, state: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Read word ids (batch, time). Returns the outputs (batch, time, width) and the new state, detached."""
        x, new_state = self.dropout(self.words.embed(words)), []
        for n, layer in enumerate(self.layers):
            x, layer_state = layer(x, None if state is None else state[n])
            x = self.dropout(x)
            new_state.append(tuple(part.detach() for part in layer_state))
        return x, new_state


class LSTMTrainer:
    """Trains a model for up to `max_epochs` epochs or `max_seconds`, and keeps the best weights."""

    def __init__(self, model: LSTMLanguageModel, config: LSTMConfig, max_epochs: int, max_seconds: float | None, bf16: bool) -> None:
        self.model, self.config, self.bf16 = model, config, bf16
        self.max_epochs, self.max_seconds = max_epochs, max_seconds
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in model.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.epochs, self.words_read, self.started = 0, 0, time.perf_counter()
        self.rate_factor = 1.0
        """The learning rate is multiplied by this; each epoch without improvement divides it by `RATE_DIVISOR`."""
        self.best_loss = math.inf
        """The lowest cross-entropy on the held-out texts so far, in nats per word."""
        self.best_epoch, self.best_state = 0, model.state_dict()
        self.curve: list[dict[str, float]] = []
        """For each epoch: the words read so far, and the cross-entropy on training texts and on held-out texts."""

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.perf_counter() - self.started

    def progress(self, epoch_share: float = 0.0) -> float:
        """Return the share of the training that is done, by epochs or by time, whichever is more.

        `epoch_share` is the share of the current epoch that is done.
        """
        by_time = self.seconds / self.max_seconds if self.max_seconds else 0.0
        return max((self.epochs + epoch_share) / self.max_epochs, by_time)

    @property
    def finished(self) -> bool:
        """Whether the epochs or the time are used up, or the last `PATIENCE` epochs brought no improvement."""
        return self.progress() >= 1 or self.epochs - self.best_epoch >= PATIENCE

    def train_epoch(self, windows: list[tuple[Tensor, Tensor]], bar: "tqdm[Any]") -> int:
        """Train on the windows in order until the time is used up. Returns the number of words read."""
        self.model.train()
        state, words_read = None, 0
        for i, (inputs, targets) in enumerate(windows):
            progress = self.progress(i / len(windows))
            if progress >= 1:
                break
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - progress) * self.rate_factor
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
                outputs, state = self.model(inputs, state)
                loss = self.model.words.loss(outputs.flatten(0, 1), targets.flatten()).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
            self.optimizer.step()
            words_read += targets.numel()
            self._show_progress(bar, progress, self.words_read + words_read, loss.item())
        return words_read

    def finish_epoch(self, words_read: int, train_loss: float, held_out_loss: float) -> None:
        """Record an epoch. Keep its weights if they are the best so far, else restore the best and lower the learning rate."""
        self.epochs += 1
        self.words_read += words_read
        self.curve.append({"words": self.words_read, "train": train_loss, "held_out": held_out_loss})
        if held_out_loss < self.best_loss:
            self.best_loss, self.best_epoch, self.best_state = held_out_loss, self.epochs, copy.deepcopy(self.model.state_dict())
        else:
            self.rate_factor /= RATE_DIVISOR
            self.model.load_state_dict(self.best_state)

    def _show_progress(self, bar: "tqdm[Any]", progress: float, words_read: int, loss: float) -> None:
        left = f"{bar.format_interval(self.seconds * (1 - progress) / progress)} left, " if progress > 0.01 else ""
        held_out = f", held out {self.best_loss:.3f}" if self.curve else ""
        rate = words_read / self.seconds
        bar.set_postfix_str(f"{left}epoch {self.epochs + 1}, loss {loss:.3f}{held_out}, {rate:,.0f} words/s", refresh=False)
        bar.update(progress - bar.n)


def fit_lstm(
    texts: list[str],
    directory: Path,
    *,
    config: LSTMConfig = LSTMConfig(),
    epochs: int,
    seconds: float | None,
    seed: int,
) -> dict[str, Any]:
    """Fit an LSTM on `texts` and write `lstm.safetensors`, `vocabulary.json` and `spelling.npz`.

    The last texts (5 %, up to 200) are held out: the epoch with the lowest loss on them is kept. (If there is only
    one text, it serves as both.) Stops after `epochs` epochs, after `seconds`, or after `PATIENCE` epochs without
    improvement. Returns the words read, the number of epochs, the best epoch, the curve and the seconds. Raises ValueError
    if there is no word to learn from.
    """
    torch.manual_seed(seed)
    tokenized = [tokenize(text) for text in texts]
    held_out_count = min(200, math.ceil(len(tokenized) / 20)) if len(tokenized) > 1 else 0
    train_texts = tokenized[: len(tokenized) - held_out_count]
    held_out_texts = tokenized[len(tokenized) - held_out_count :] or tokenized
    vocabulary = Vocabulary.count(train_texts, config.vocabulary_size)
    device, bf16, _ = choose_device()
    train = torch.from_numpy(vocabulary.encode_texts(train_texts)).to(device)
    held_out = torch.from_numpy(vocabulary.encode_texts(held_out_texts)).to(device)

    model = LSTMLanguageModel(len(vocabulary), config).to(device)
    trainer = LSTMTrainer(model, config, epochs, seconds, bf16)
    windows = cut_windows(train, config.streams, config.window)
    with progress_bar(total=1.0, desc="LSTM", bar_format="{desc} {percentage:3.0f}%{postfix} |{bar}|") as bar:
        while not trainer.finished:
            if words_read := trainer.train_epoch(windows, bar):
                train_loss = mean_loss(model, train[: len(held_out)], config)
                held_out_loss = mean_loss(model, held_out, config)
                trainer.finish_epoch(words_read, train_loss, held_out_loss)

    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in trainer.best_state.items()}, directory / "lstm.safetensors")
    vocabulary.save(directory / "vocabulary.json")
    Spelling.fit(vocabulary.unknown(train_texts)).save(directory / "spelling.npz")
    return {
        "words": trainer.words_read,
        "epochs": trainer.epochs,
        "best_epoch": trainer.best_epoch,
        "curve": trainer.curve,
        "seconds": trainer.seconds,
    }


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
