"""Fits the LSTM language model with torch; `models/rnn.py` runs it."""

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from models.words import BOUNDARY, UNKNOWN, Vocabulary, tokenize
from training.device import choose_device

WIDTH, LAYERS = 384, 2
BATCH, WINDOW = 32, 64
"""Streams that are read side by side, and the words after which back-propagation is cut."""


class LSTMLanguageModel(nn.Module):
    """An embedding, LSTM layers, and an adaptive softmax, whose cost does not grow with the rare words."""

    def __init__(self, vocabulary_size: int, width: int = WIDTH, layers: int = LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=0.2 if layers > 1 else 0.0)
        self.dropout = nn.Dropout(0.2)
        cutoffs = [cutoff for cutoff in (2_000, 10_000) if cutoff < vocabulary_size] or [vocabulary_size - 1]
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(width, vocabulary_size, cutoffs)

    def forward(self, words: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Ids (batch, time) to outputs (batch, time, width) and the state after them."""
        outputs, state = self.lstm(self.dropout(self.embedding(words)), state)
        return self.dropout(outputs), state

    def logprobs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Log P of `targets` (batch, time), same shape. The adaptive softmax needs fp32: autocast is off in it."""
        with torch.autocast(outputs.device.type, enabled=False):
            result: Tensor = self.softmax(outputs.float().flatten(0, 1), targets.flatten()).output
        return result.view(targets.shape)


def stream_of(texts: list[str], vocabulary: Vocabulary) -> Tensor:
    """The ids of all texts in a row, each after a boundary."""
    ids = [id for text in texts for id in (BOUNDARY, *vocabulary.encode(tokenize(text)))]
    return torch.tensor([*ids, BOUNDARY], dtype=torch.long)


def fit_lstm(
    train: list[str], test: list[str], directory: Path, *, vocabulary_size: int = 30_000, epochs: int, seconds: float | None, seed: int
) -> dict[str, Any]:
    """Fit on `train`, keep the epoch that predicts `test` best, and write `lstm.safetensors` and `vocabulary.json`.

    The streams are contiguous and the state is carried over (truncated back-propagation through time). Stops after
    `epochs`, after `seconds`, or when three epochs have not become better. Returns the perplexity on `test` (known words
    alone) and what it took. Raises ValueError where there is no word to learn from.
    """
    torch.manual_seed(seed)
    vocabulary = Vocabulary.count((tokenize(text) for text in train), vocabulary_size)
    device, bf16, _ = choose_device()
    data, held_out = stream_of(train, vocabulary).to(device), stream_of(test, vocabulary).to(device)
    streams = max(1, min(BATCH, (len(data) - 1) // WINDOW))
    length = (len(data) - 1) // streams
    inputs, targets = (data[shift : shift + streams * length].view(streams, length) for shift in (0, 1))
    model = LSTMLanguageModel(len(vocabulary)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
    windows = math.ceil(length / WINDOW)
    best, best_weights, stale, words, began = math.inf, model.state_dict(), 0, 0, time.perf_counter()
    with tqdm(total=1.0, desc="LSTM", bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}") as bar:
        for epoch in range(epochs):
            model.train()
            state = None
            for window in range(windows):
                progress = max((epoch + window / windows) / epochs, (time.perf_counter() - began) / seconds if seconds else 0.0)
                if progress >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = 3e-3 * (1 - progress)
                part = slice(window * WINDOW, (window + 1) * WINDOW)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    outputs, state = model(inputs[:, part], None if state is None else (state[0].detach(), state[1].detach()))
                loss = -model.logprobs(outputs, targets[:, part]).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                words += outputs.shape[0] * outputs.shape[1]
                rate = words / (time.perf_counter() - began)
                bar.set_postfix_str(
                    f"epoch {epoch + 1}, loss {loss.item():.3f}, {rate:,.0f} words/s, held-out perplexity {best:,.0f}", refresh=False
                )
                bar.update(progress - bar.n)
            perplexity = held_out_perplexity(model, held_out)
            if perplexity < best:
                best, best_weights, stale = perplexity, copy.deepcopy(model.state_dict()), 0
            else:
                stale += 1
            if stale == 3 or (seconds and time.perf_counter() - began >= seconds):
                break
    directory.mkdir(parents=True, exist_ok=True)
    save_file(best_weights, directory / "lstm.safetensors")
    vocabulary.save(directory / "vocabulary.json")
    return {"perplexity": best, "words": words, "epochs": epoch + 1, "seconds": time.perf_counter() - began}


@torch.no_grad()
def held_out_perplexity(model: LSTMLanguageModel, ids: Tensor) -> float:
    """Perplexity per word over the words of a stream that are in the vocabulary, boundaries included."""
    model.eval()
    state, total, count = None, 0.0, 0
    for start in range(0, len(ids) - 1, 1024):
        window = ids[start : start + 1025]
        outputs, state = model(window[None, :-1], state)
        known = window[1:] != UNKNOWN
        total -= float(model.logprobs(outputs, window[None, 1:])[0][known].sum())
        count += int(known.sum())
    return math.exp(total / count) if count else math.inf
