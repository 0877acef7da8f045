"""Each of the three models from its data to its artifact and its metrics, within its share of the minutes."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.bigram import Bigram
from models.llm import LLM, SETTINGS
from models.words import BOUNDARY, UNKNOWN, tokenize
from training.config import Config
from training.data import train_loader
from training.evaluation import evaluate
from training.export import export_openvino
from training.loop import fine_tune
from training.lstm import fit_lstm

RNN_SHARE, RNN_EPOCHS = 0.15, 20
"""The LSTM's share of the minutes where the LLM is trained too, and its epochs at most: it keeps the best and stops early."""


def fit_bigram(train: list[str], test: list[str], directory: Path) -> dict[str, Any]:
    """Count, save, and measure the perplexity on held-out text, over the words that training has met."""
    began = time.perf_counter()
    model = Bigram.fit(train)
    seconds = time.perf_counter() - began
    model.save(directory)
    ids = np.array([id for text in test for id in (BOUNDARY, *model.vocabulary.encode(tokenize(text)))] + [BOUNDARY])
    known = ids[1:] != UNKNOWN
    perplexity = math.exp(-model.logprobs(ids)[known].mean())
    return {"perplexity": perplexity, "unknown_share": float(1 - known.mean()), "vocabulary": len(model.vocabulary), "seconds": seconds}


def fit_rnn(train: list[str], test: list[str], directory: Path, config: Config) -> dict[str, Any]:
    """Fit the LSTM within its share of the minutes."""
    share = RNN_SHARE if "llm" in config.only else 1.0
    return fit_lstm(train, test, directory, epochs=RNN_EPOCHS, seconds=_seconds(config, share), seed=config.seed)


def fit_llm(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase], train: Dataset, test: Dataset, directory: Path, config: Config
) -> dict[str, Any]:
    """Fine-tune, save in bf16, export for the CPU engine, and evaluate what will be served."""
    model, tokenizer = base
    torch.manual_seed(config.seed)
    loader, sampler = train_loader(train, tokenizer, config.batch_tokens, config.max_length, config.seed)
    share = 1 - RNN_SHARE if "rnn" in config.only else 1.0
    progress = fine_tune(model, loader, sampler, epochs=config.epochs, seconds=_seconds(config, share), peak_rate=config.learning_rate)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps `to` without its type
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / SETTINGS).write_text(json.dumps({"document_start": document_start(tokenizer)}) + "\n")
    print("exporting for the CPU engine …", flush=True)
    export_openvino(directory, directory / "openvino")
    llm = LLM.load(directory)
    try:
        return progress.describe() | evaluate(llm, test)
    finally:
        llm.close()


def document_start(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the token that stood between documents in the base model's pretraining; empty where the tokenizer adds one
    by itself, or none is known.
    """
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        return ""
    return "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.bos_token or ""


def _seconds(config: Config, share: float) -> float | None:
    return None if config.max_minutes is None else 60 * config.max_minutes * share
