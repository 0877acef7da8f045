"""Fit each word model, save it, and measure it on held-out text."""

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.bigram import Bigram
from models.rnn import LSTM
from models.words import fit_vocabulary, tokenize
from training.checkpoint import CHECKPOINTS, newest_checkpoint
from training.config import Config
from training.device import choose_device
from training.evaluation.bits_per_byte import word_model_metrics
from training.interruption import Interruption
from training.word_models.lstm import LSTMConfig, LSTMLanguageModel
from training.word_models.lstm_training import LSTMTrainer, Window, cut_windows, mean_loss

RNN_SHARE = 0.15
"""The LSTM's share of the training time if the LLM is trained too. The LLM gets the time that the LSTM does not use."""
RNN_EPOCHS = 40
"""The LSTM's maximum number of epochs. Training may stop earlier, and the best epoch's weights are kept."""
RNN_WORDS = 25_000_000
"""The words that the LSTM reads at most if the run has no time limit, in whole epochs: see docs/word-models.md."""


def fit_bigram(train: Sequence[str], test: Sequence[str], directory: Path) -> dict[str, Any]:
    """Fit the bigram on `train` and save it. Returns its metrics on `test`."""
    started = time.perf_counter()
    model = Bigram.fit(train)
    seconds = time.perf_counter() - started
    model.save(directory)
    return word_model_metrics(model, test) | {"vocabulary": len(model.vocabulary), "seconds": seconds}


def fit_rnn(train: Sequence[str], test: Sequence[str], config: Config, seconds: float | None, interruption: Interruption) -> dict[str, Any]:
    """Fit the LSTM on `train` within `seconds` and save it. Returns the metrics of the saved model on `test`."""
    directory = config.output_dir / "rnn"
    statistics = fit_lstm(
        train,
        directory,
        epochs=RNN_EPOCHS,
        words=RNN_WORDS if seconds is None else None,
        seconds=seconds,
        seed=config.seed,
        checkpoint_minutes=config.checkpoint_minutes,
        interruption=interruption,
    )
    metrics = word_model_metrics(LSTM.load(directory), test) | statistics
    shutil.rmtree(directory / CHECKPOINTS)
    return metrics


def fit_lstm(
    texts: Sequence[str],
    directory: Path,
    *,
    config: LSTMConfig = LSTMConfig(),  # noqa: B008  # frozen
    epochs: int,
    words: int | None = None,
    seconds: float | None,
    seed: int,
    checkpoint_minutes: float = math.inf,
    interruption: Interruption | None = None,
) -> dict[str, Any]:
    """Fit an LSTM on `texts` and write `lstm.safetensors`, `vocabulary.json` and `spelling.npz`.

    The last texts (5 %, up to 200) are held out: the epoch with the lowest loss on them is kept. (If there is only
    one text, it serves as both.) Stops after `epochs` epochs, before an epoch that would read more than `words` words in
    all (but not before the first), after `seconds`, or after `PATIENCE` epochs without improvement.

    Continues from the newest checkpoint in the subdirectory `CHECKPOINTS`, if there is one. Leaves it to the caller to
    remove the checkpoints, once nothing more can be lost. A signal raises `Interrupted` after a checkpoint. Returns the
    words read, the number of epochs, the best epoch, the curve and the seconds. Raises ValueError if there is no word to
    learn from.
    """
    torch.manual_seed(seed)
    held_out_count = min(200, math.ceil(len(texts) / 20)) if len(texts) > 1 else 0
    train_texts = texts[: len(texts) - held_out_count]
    held_out_texts = texts[len(texts) - held_out_count :] or texts
    vocabulary, spelling = fit_vocabulary(train_texts, config.vocabulary_size)
    device, bf16, _ = choose_device()
    train = torch.from_numpy(vocabulary.encode_texts(map(tokenize, train_texts))).to(device)
    held_out = torch.from_numpy(vocabulary.encode_texts(map(tokenize, held_out_texts))).to(device)
    if words is not None:
        epochs = min(epochs, max(1, words // len(train)))

    model = LSTMLanguageModel(len(vocabulary), config).to(device)
    find_rare = model.words.find_rare
    windows = [Window(*pair, *map(find_rare, pair)) for pair in cut_windows(train, config.streams, config.window)]
    trainer = LSTMTrainer(model, config, windows, epochs, seconds, bf16, directory / CHECKPOINTS, checkpoint_minutes)
    if checkpoint := newest_checkpoint(directory / CHECKPOINTS):
        trainer.resume(checkpoint)
        finished, position = trainer.progress.epochs, trainer.progress.position
        print(f"resuming from {checkpoint}: epoch {finished + 1} of up to {epochs}, window {position} of {len(windows):,}", flush=True)

    def measure() -> tuple[float, float]:
        return mean_loss(model, train[: len(held_out)], config), mean_loss(model, held_out, config)

    trainer.run(measure, interruption or Interruption())

    save_file({name: weight.contiguous() for name, weight in trainer.best_state.items()}, directory / "lstm.safetensors")
    vocabulary.save(directory / "vocabulary.json")
    spelling.save(directory / "spelling.npz")
    progress = trainer.progress
    return {
        "words": progress.words,
        "epochs": progress.epochs,
        "best_epoch": progress.best_epoch,
        "curve": progress.curve,
        "seconds": trainer.seconds,
    }
