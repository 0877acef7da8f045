"""Each of the three models from its data to its artifact and its metrics."""

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
"""The LSTM's share of the minutes where the LLM is trained too, and its epochs at most: it keeps the best and stops early, and what
it leaves of its share is the LLM's."""


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


def fit_rnn(train: list[str], test: list[str], directory: Path, seconds: float | None, seed: int) -> dict[str, Any]:
    """Fit the LSTM within `seconds`, or until it becomes no better."""
    return fit_lstm(train, test, directory, epochs=RNN_EPOCHS, seconds=seconds, seed=seed)


def fit_llm(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    train: Dataset,
    test: Dataset,
    directory: Path,
    seconds: float | None,
    config: Config,
) -> dict[str, Any]:
    """Fine-tune within `seconds` or the epochs, save in bf16, export for the CPU engine, and evaluate what this machine would
    serve: int8 on a CPU, bf16 on a GPU; the metrics name the engine.
    """
    model, tokenizer = base
    torch.manual_seed(config.seed)
    loader, sampler = train_loader(train, tokenizer, config.batch_tokens, config.max_length, config.seed)
    progress = fine_tune(model, loader, sampler, epochs=config.epochs, seconds=seconds, peak_rate=config.learning_rate)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # transformers wraps `to` without its type
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / SETTINGS).write_text(json.dumps({"document_start": document_start(tokenizer)}) + "\n")
    print("exporting for the CPU engine …", flush=True)
    export_openvino(directory, directory / "openvino")
    llm = LLM.load(directory)
    try:
        return progress.describe() | {"engine": type(llm.engine).__name__} | evaluate(llm, test)
    finally:
        llm.close()


def document_start(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the token that stood between documents in the base model's pretraining; empty where the tokenizer adds one
    by itself, or none is known.
    """
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        return ""
    return "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.bos_token or ""
