"""Measure every model of a run on the same text: bits per byte, size, training time, and speed on this machine.

Each model predicts the same held-out contexts from their beginning, cut to the length of the LLM's training sequences. Bits per UTF-8
byte compare any two models (Gao et al. 2020, arXiv:2101.00027, section 3.1); perplexity per word spreads the same bits over the words:
2^(bits / words). A word outside a vocabulary also costs its spelling (`models/spelling.py`); the end of a text costs nothing. The samples
and the times come from the engine that serves.
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.base import SamplingParams, TextModel
from models.bigram import Bigram
from models.rnn import LSTM, RNN
from models.words import tokenize
from training.config import Config
from training.data.selection import contexts, draw
from training.data.squad import Splits
from training.device import choose_device
from training.evaluation.bits_per_byte import CONTEXTS, excerpts, text_metrics, word_model_metrics
from training.export.artifact import open_artifact, save_artifact
from training.fine_tuning.base_model import load_base

PROMPTS = ("The city", "In 1920 the", "One of the most important")
SAMPLE_TOKENS = 40
REQUESTS, REQUEST_TOKENS = 9, 64
"""The number of timed requests, sent one after the other, and the new tokens of each."""


@dataclass(frozen=True)
class Measurement:
    """The measured values of one model. The field names are keys of `comparison.json`."""

    bits_per_byte: float
    word_perplexity: float
    parameters: int
    """The number of learned values: weights, or counts above zero."""
    artifact_bytes: int | None
    """None for the unigram, which has no artifact of its own."""
    training_seconds: float | None
    """None for the unigram and the base LLM, which this run does not train."""
    tokens_per_second: float
    """Speed of one request at a time: words for the word models, BPE tokens for the LLM."""
    latency_seconds: float
    """Median latency of a request of `REQUEST_TOKENS` new tokens."""
    samples: list[str]
    """A continuation of each of `PROMPTS`, with the same seed."""


def compare(config: Config, splits: Splits, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure the models in `metrics`, the unigram along with the bigram, and the base LLM along with the fine-tuned one."""
    texts = contexts(draw(splits.test, None, config.seed))
    base = load_base(config.base_model, config.max_length, 0.0) if "llm" in metrics else None
    texts = excerpts(texts, base[1], config.max_length) if base else texts[:CONTEXTS]
    output, seed, models = config.output_dir, config.seed, {}
    if "bigram" in metrics:
        bigram = Bigram.load(output / "bigram")
        models["unigram"] = _measure_words(bigram.unigram(), texts, None, None, seed)
        models["bigram"] = _measure_words(bigram, texts, output / "bigram", metrics["bigram"]["seconds"], seed)
    if "rnn" in metrics:
        weights, artifact = LSTM.load(output / "rnn"), output / "rnn"
        with closing(RNN.load(artifact)) as rnn:
            lstm_metrics = word_model_metrics(weights, texts)
            models["rnn"] = _measure(rnn, lstm_metrics, artifact, weights.parameters, metrics["rnn"]["seconds"], seed)
    if base:
        (model, tokenizer), llm = base, metrics["llm"]  # the fine-tuning has measured the bits per byte of both models
        with tempfile.TemporaryDirectory() as scratch:
            save_artifact(model, tokenizer, Path(scratch), config.prompt)
            base_metrics = text_metrics(llm["base_bits_per_byte"], texts)
            models["base"] = _measure_llm(Path(scratch), base_metrics, model.num_parameters(), None, seed)
        llm_metrics = text_metrics(llm["bits_per_byte"], texts)
        models["llm"] = _measure_llm(output / "llm", llm_metrics, model.num_parameters(), llm["seconds"], seed)
    return {
        "contexts": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "words": sum(len(tokenize(text)) for text in texts),
        "prompts": list(PROMPTS),
        "seed": config.seed,
        "machine": choose_device().description,
        "models": {name: asdict(measured) for name, measured in models.items()},
    }


def _measure_words(model: Bigram, texts: list[str], artifact: Path | None, seconds: float | None, seed: int) -> Measurement:
    return _measure(model, word_model_metrics(model, texts), artifact, model.parameters, seconds, seed)


def _measure_llm(artifact: Path, metrics: dict[str, Any], parameters: int, seconds: float | None, seed: int) -> Measurement:
    with open_artifact(artifact) as llm:
        return _measure(llm, metrics, artifact, parameters, seconds, seed)


def _measure(
    model: TextModel, metrics: dict[str, Any], artifact: Path | None, parameters: int, seconds: float | None, seed: int
) -> Measurement:
    size = None
    if artifact is not None:  # leave out the report of an earlier comparison
        size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file() and path.parent.name != "comparison")
    generated = asyncio.run(_generate(model, seed))
    return Measurement(**metrics, parameters=parameters, artifact_bytes=size, training_seconds=seconds, **generated)


async def _generate(model: TextModel, seed: int) -> dict[str, Any]:
    """Return samples, which also warm the model up, and the speed of requests sent one after the other."""
    params = SamplingParams(SAMPLE_TOKENS, seed=seed)
    samples = ["".join([token.text async for token in model.stream(prompt, params)]) for prompt in PROMPTS]
    times, tokens = [], 0
    for request in range(REQUESTS):
        started = time.perf_counter()
        prompt, params = PROMPTS[request % len(PROMPTS)], SamplingParams(REQUEST_TOKENS, seed=seed + request)
        tokens += len([token async for token in model.stream(prompt, params)])
        times.append(time.perf_counter() - started)
    return {"samples": samples, "tokens_per_second": tokens / sum(times), "latency_seconds": statistics.median(times)}
