"""Fits the LSTM language model with torch; `models/rnn.py` runs it, and tells how its words are embedded.

After Merity et al. 2017 (Regularizing and Optimizing LSTM Language Models, https://arxiv.org/abs/1708.02182): tied embeddings, locked
dropout, contiguous truncated back-propagation; with AdamW and a schedule that follows the minutes instead of averaged SGD.
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


@dataclass(frozen=True)
class Shape:
    """Sizes, and what the fit depends on."""

    width: int = 384
    layers: int = 2
    shortlist: int = 2_000
    bands: tuple[int, ...] = (10_000,)
    """The ids with which the bands behind the first begin."""
    narrowing: int = 2
    """Each band's vectors are so many times narrower than those before."""
    streams: int = 32
    """Places of the text that are read side by side, …"""
    window: int = 32
    """… and the words after which back-propagation is cut."""
    learning_rate: float = 5e-3
    dropout: float = 0.4
    weight_decay: float = 0.01
    clip: float = 0.5
    vocabulary: int = 30_000


UPDATES = 32
"""Windows of an epoch at least."""
CUT = 4
"""After an epoch that was no better the best weights are taken up again, at a learning rate so many times lower (as in PyTorch's
example, https://github.com/pytorch/examples/tree/main/word_language_model), …"""
STALE = 3
"""… and after so many of them, one after the other, the fit ends."""


class LockedDropout(nn.Module):
    """Dropout with one mask for all steps of a window (Gal & Ghahramani 2016, https://arxiv.org/abs/1512.05287)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Of shape (batch, time, width); the same features are 0 at each step."""
        if not self.training or not self.share:
            return x
        mask = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(1 - self.share)
        return x * mask.div_(1 - self.share)


class Band(nn.Module):
    """Vectors of rarer words, and the projection to the model's width."""

    def __init__(self, size: int, narrow: int, width: int) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(size, narrow) / math.sqrt(narrow))
        self.projection = nn.Parameter(torch.randn(narrow, width) / math.sqrt(width))


class TiedWords(nn.Module):
    """Word vectors that are read at the input and compared with at the output, adaptive in both: see `models/rnn.py`."""

    def __init__(self, size: int, shape: Shape) -> None:
        super().__init__()
        cutoffs = [cutoff for cutoff in (shape.shortlist, *shape.bands) if cutoff < size]
        self.firsts = [*cutoffs, size]
        self.head = nn.Parameter(torch.randn(self.firsts[0] + len(cutoffs), shape.width) / math.sqrt(shape.width))
        self.bias = nn.Parameter(torch.zeros(len(self.head)))
        self.bands = nn.ModuleList(
            Band(last - first, max(8, shape.width // shape.narrowing ** (n + 1)), shape.width)
            for n, (first, last) in enumerate(zip(self.firsts, self.firsts[1:], strict=False))
        )

    def _banded(self) -> list[tuple[Band, int, int]]:
        """Each band with its first id and the one behind its last."""
        return [(cast(Band, band), first, last) for band, first, last in zip(self.bands, self.firsts, self.firsts[1:], strict=False)]

    def embed(self, words: Tensor) -> Tensor:
        """Ids of any shape to vectors (…, width)."""
        vectors = embedding(words.clamp(max=self.firsts[0] - 1), self.head)
        for band, first, last in self._banded():
            inside = (words >= first) & (words < last)
            rare = linear(band.words[words[inside] - first], band.projection.t())
            vectors = vectors.masked_scatter(inside[..., None], rare.to(vectors.dtype))
        return vectors

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """-log P of each of `targets` (n,) by its `outputs` (n, width), shape (n,)."""
        column = targets
        for n, first in enumerate(self.firsts[:-1]):
            column = torch.where(targets >= first, self.firsts[0] + n, column)
        losses = cross_entropy(linear(outputs, self.head, self.bias).float(), column, reduction="none")
        for band, first, last in self._banded():
            rows = ((targets >= first) & (targets < last)).nonzero()[:, 0]
            narrow = linear(outputs[rows], band.projection)
            losses = losses.index_add(0, rows, cross_entropy(linear(narrow, band.words).float(), targets[rows] - first, reduction="none"))
        return losses


class LSTMLanguageModel(nn.Module):
    """Tied words around LSTM layers."""

    def __init__(self, vocabulary_size: int, shape: Shape) -> None:
        super().__init__()
        self.words = TiedWords(vocabulary_size, shape)
        self.layers = nn.ModuleList(nn.LSTM(shape.width, shape.width, batch_first=True) for _ in range(shape.layers))
        self.dropout = LockedDropout(shape.dropout)

    def forward(self, words: Tensor, state: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Ids (batch, time) to outputs (batch, time, width) and the state after them, cut off from what was before."""
        x, new = self.dropout(self.words.embed(words)), []
        for n, layer in enumerate(self.layers):
            x, after = layer(x, None if state is None else state[n])
            x = self.dropout(x)
            new.append(tuple(part.detach() for part in after))
        return x, new


class Fit:
    """A model while it is fitted: how far it has come, within `epochs` and `seconds`, and the best that it has been."""

    def __init__(self, model: LSTMLanguageModel, shape: Shape, epochs: int, seconds: float | None, bf16: bool) -> None:
        self.model, self.shape, self.limits, self.bf16 = model, shape, (epochs, seconds), bf16
        matrices = [weight for weight in model.parameters() if weight.dim() > 1]
        vectors = [weight for weight in model.parameters() if weight.dim() == 1]
        groups = [{"params": matrices, "weight_decay": shape.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.epochs, self.words, self.began = 0, 0, time.perf_counter()
        self.cut = 1.0
        """What is left of the learning rate after the epochs that were no better."""
        self.best, self.best_epoch, self.best_weights = math.inf, 0, model.state_dict()
        """Least cross-entropy on the held-out texts, in nats per word; when, and with which weights."""
        self.curve: list[dict[str, float]] = []
        """Of each epoch the words read so far, and the cross-entropy on the first of the training texts and on the held-out ones."""

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.began

    def progress(self, share: float = 0.0) -> float:
        """The share of the fit that is done, by epochs or by time, whichever is more; `share` is that of the epoch under way."""
        epochs, seconds = self.limits
        return max((self.epochs + share) / epochs, self.seconds / seconds if seconds else 0.0)

    def epoch(self, windows: list[tuple[Tensor, Tensor]], bar: "tqdm[Any]") -> int:
        """Read the windows, as far as the time goes; returns the number of words that were read."""
        self.model.train()
        state, read = None, 0
        for at, (inputs, targets) in enumerate(windows):
            progress = self.progress(at / len(windows))
            if progress >= 1:
                break
            for group in self.optimizer.param_groups:
                group["lr"] = self.shape.learning_rate * (1 - progress) * self.cut
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
                outputs, state = self.model(inputs, state)
                loss = self.model.words.loss(outputs.flatten(0, 1), targets.flatten()).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.shape.clip)
            self.optimizer.step()
            read += targets.numel()
            left = f"{bar.format_interval(self.seconds * (1 - progress) / progress)} left, " if progress > 0.01 else ""
            held_out = f", held out {self.best:.3f}" if self.curve else ""
            rate = (self.words + read) / self.seconds
            bar.set_postfix_str(f"{left}epoch {self.epochs + 1}, loss {loss.item():.3f}{held_out}, {rate:,.0f} words/s", refresh=False)
            bar.update(progress - bar.n)
        return read

    def note(self, read: int, known: float, entropy: float) -> None:
        """An epoch of so many words is over, with `known` on training texts and `entropy` on the held-out ones."""
        self.epochs, self.words = self.epochs + 1, self.words + read
        self.curve.append({"words": self.words, "train": known, "held_out": entropy})
        if entropy < self.best:
            self.best, self.best_epoch, self.best_weights = entropy, self.epochs, copy.deepcopy(self.model.state_dict())
        else:
            self.cut /= CUT
            self.model.load_state_dict(self.best_weights)

    @property
    def over(self) -> bool:
        """Whether the epochs or the time are, or three epochs were no better."""
        return self.progress() >= 1 or self.epochs - self.best_epoch >= STALE


def fit_lstm(texts: list[str], directory: Path, *, shape: Shape = Shape(), epochs: int, seconds: float | None, seed: int) -> dict[str, Any]:
    """Fit on `texts` and write `lstm.safetensors`, `vocabulary.json` and `spelling.npz`.

    The last texts (5 %, 200 at most) are not learned: they choose the epoch that is kept. Stops after `epochs`, after `seconds`, or when
    three epochs have not become better. Returns what it took, and the curve. Raises ValueError where there is no word to learn from.
    """
    torch.manual_seed(seed)
    tokenized = [tokenize(text) for text in texts]
    held = min(200, math.ceil(len(tokenized) / 20)) if len(tokenized) > 1 else 0
    learned, held_out = tokenized[: len(tokenized) - held], tokenized[len(tokenized) - held :] or tokenized
    vocabulary = Vocabulary.count(learned, shape.vocabulary)
    device, bf16, _ = choose_device()
    train, valid = (torch.from_numpy(vocabulary.stream(part)).to(device) for part in (learned, held_out))
    fit = Fit(LSTMLanguageModel(len(vocabulary), shape).to(device), shape, epochs, seconds, bf16)
    windows = divide(train, shape.streams, shape.window)
    with tqdm(total=1.0, desc="LSTM", bar_format="{desc} {percentage:3.0f}%{postfix} |{bar}|") as bar:
        while not fit.over:
            if read := fit.epoch(windows, bar):
                fit.note(read, *(cross_entropy_of(fit.model, part, shape) for part in (train[: len(valid)], valid)))
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in fit.best_weights.items()}, directory / "lstm.safetensors")
    vocabulary.save(directory / "vocabulary.json")
    Spelling.fit(vocabulary.unknown(learned)).save(directory / "spelling.npz")
    return {"words": fit.words, "epochs": fit.epochs, "best_epoch": fit.best_epoch, "curve": fit.curve, "seconds": fit.seconds}


def divide(ids: Tensor, streams: int, window: int) -> list[tuple[Tensor, Tensor]]:
    """A stream of ids as at most `streams` that run side by side, cut into windows: inputs and targets, shape (streams, window) each; the
    last window is shorter, and what does not fill a row is left out. A small corpus gets fewer streams, for `UPDATES` windows.
    """
    streams = max(1, min(streams, (len(ids) - 1) // (UPDATES * window)))
    length = (len(ids) - 1) // streams
    inputs, targets = (ids[shift : shift + streams * length].view(streams, length) for shift in (0, 1))
    return [(inputs[:, at : at + window], targets[:, at : at + window]) for at in range(0, length, window)]


@torch.no_grad()
def cross_entropy_of(model: LSTMLanguageModel, ids: Tensor, shape: Shape) -> float:
    """Mean over the words of a stream that are in the vocabulary, boundaries included, in nats."""
    model.eval()
    state, total, count = None, 0.0, 0
    for inputs, targets in divide(ids, shape.streams, shape.window):
        outputs, state = model(inputs, state)
        known = targets != UNKNOWN
        total += float(model.words.loss(outputs[known], targets[known]).sum())
        count += int(known.sum())
    return total / count if count else math.inf
