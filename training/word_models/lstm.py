"""The LSTM language model in torch. `models/rnn.py` runs it, and explains how its words are embedded.

After Merity et al. 2017 (Regularizing and Optimizing LSTM Language Models, https://arxiv.org/abs/1708.02182): tied embeddings and
locked dropout.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear


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


State = list[tuple[Tensor, ...]]
"""The hidden and the cell state of each layer."""


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

    def find_rare(self, words: Tensor) -> list[Tensor]:
        """Return, for each band, the indices of its words in the flattened `words`.

        Their number depends on the words, so this waits for a GPU.
        """
        return [((words >= start) & (words < end)).flatten().nonzero()[:, 0] for _, start, end in self._bands_with_ids()]

    def embed(self, words: Tensor, rare: list[Tensor] | None = None) -> Tensor:
        """Return the vectors of `words`, ids of any shape (…), as shape (…, width). `rare` is `find_rare(words)`, if that is known."""
        ids = words.flatten()
        vectors = embedding(ids.clamp(max=self.shortlist - 1), self.head)  # the bands' words are overwritten below
        for (band, start, _), indices in zip(self._bands_with_ids(), self.find_rare(words) if rare is None else rare, strict=True):
            in_band = linear(band.words[ids[indices] - start], band.projection.t())
            vectors = vectors.index_copy(0, indices, in_band.to(vectors.dtype))
        return vectors.view(*words.shape, -1)

    def loss(self, outputs: Tensor, targets: Tensor, rare: list[Tensor] | None = None) -> Tensor:
        """Return -log P of each of `targets` (n,) given `outputs` (n, width), shape (n,), in nats. `rare` is `find_rare(targets)`."""
        column = targets
        for n, start in enumerate(self.cutoffs[:-1]):
            column = torch.where(targets >= start, self.shortlist + n, column)
        losses = cross_entropy(linear(outputs, self.head, self.bias).float(), column, reduction="none")
        for (band, start, _), indices in zip(self._bands_with_ids(), self.find_rare(targets) if rare is None else rare, strict=True):
            logits = linear(linear(outputs[indices], band.projection), band.words)
            losses = losses.index_add(0, indices, cross_entropy(logits.float(), targets[indices] - start, reduction="none"))
        return losses


class LSTMLanguageModel(nn.Module):
    """LSTM layers between an input embedding and an output layer that share their weights."""

    def __init__(self, vocabulary_size: int, config: LSTMConfig) -> None:
        super().__init__()
        self.words = TiedWords(vocabulary_size, config)
        self.layers = nn.ModuleList(nn.LSTM(config.width, config.width, batch_first=True) for _ in range(config.layers))
        self.dropout = LockedDropout(config.dropout)

    def forward(self, words: Tensor, state: State | None = None, rare: list[Tensor] | None = None) -> tuple[Tensor, State]:
        """Read word ids (batch, time). Returns the outputs (batch, time, width) and the new state, detached. `rare` is as in `embed`."""
        x, new_state = self.dropout(self.words.embed(words, rare)), []
        for n, layer in enumerate(self.layers):
            x, layer_state = layer(x, None if state is None else state[n])
            x = self.dropout(x)
            new_state.append(tuple(part.detach() for part in layer_state))
        return x, new_state
