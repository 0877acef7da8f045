"""Three generations on the same bytes: what each model of a run predicts, weighs, took and delivers on this machine.

    python -m training.comparison.measurement [DIRECTORY]      of a run that is finished (runs/latest), again

The held-out contexts are read from their beginning by each model, as much of each as a training sequence of the LLM holds. Bits per UTF-8
byte compare any two of them (Gao et al. 2020, arXiv:2101.00027, section 3.1); perplexity per word is the same bits over the same words. A
word outside a vocabulary costs its spelling too (`models/spelling.py`), and the end of a text is not charged. The engine that serves writes
the samples and gives the times.
"""

import asyncio
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.base import SamplingParams, TextModel
from models.bigram import Bigram
from models.rnn import LSTM
from models.words import tokenize
from training.config import Config
from training.data.selection import contexts, draw
from training.data.squad import Splits
from training.device import choose_device
from training.evaluation.bits_per_byte import CONTEXTS, excerpts, scores, word_model_metrics
from training.export.artifact import open_artifact, save_artifact
from training.fine_tuning.base_model import load_base

PROMPTS = ("The city", "In 1920 the", "One of the most important")
LENGTH, REQUESTS = 64, 9
"""New tokens of the requests that are timed, and how many, one after the other."""


@dataclass(frozen=True)
class Measured:
    """One model of the comparison."""

    bits_per_byte: float
    word_perplexity: float
    parameters: int
    """Numbers that are learned: weights, or counts above zero."""
    artifact_bytes: int | None
    """None of what is no artifact."""
    training_seconds: float | None
    """None of what was not trained here."""
    tokens_per_second: float
    """Of one request at a time: words for the word models, BPE tokens for the LLM."""
    latency_seconds: float
    """Median of requests of `LENGTH` new tokens."""
    samples: list[str]
    """The continuation of each of `PROMPTS`, with the same seed."""


def compare(config: Config, splits: Splits, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure the models of `config.output_dir` that `metrics` names, each beside what it improves on."""
    texts = contexts(draw(splits.test, None, config.seed))
    base = load_base(config.base_model, config.max_length, 0.0) if "llm" in metrics else None
    texts = excerpts(texts, base[1], config.max_length) if base else texts[:CONTEXTS]
    output, seed, models = config.output_dir, config.seed, {}
    if "bigram" in metrics:
        bigram = Bigram.load(output / "bigram")
        models["unigram"] = _measure_words(bigram.unigram(), texts, None, None, seed)
        models["bigram"] = _measure_words(bigram, texts, output / "bigram", metrics["bigram"]["seconds"], seed)
    if "rnn" in metrics:
        models["rnn"] = _measure_words(LSTM.load(output / "rnn"), texts, output / "rnn", metrics["rnn"]["seconds"], seed)
    if base:
        (model, tokenizer), llm = base, metrics["llm"]  # the fine-tuning has measured the bits per byte of both (training/qa.py)
        with tempfile.TemporaryDirectory() as scratch:
            save_artifact(model, tokenizer, Path(scratch), config.prompt)
            models["base"] = _measure_llm(Path(scratch), scores(llm["base_bits_per_byte"], texts), model.num_parameters(), None, seed)
        tuned = scores(llm["bits_per_byte"], texts)
        models["llm"] = _measure_llm(output / "llm", tuned, model.num_parameters(), llm["seconds"], seed)
    return {
        "contexts": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "words": sum(len(tokenize(text)) for text in texts),
        "prompts": list(PROMPTS),
        "seed": config.seed,
        "machine": choose_device()[2],
        "models": {name: asdict(measured) for name, measured in models.items()},
    }


def _measure_words(model: Bigram | LSTM, texts: list[str], artifact: Path | None, seconds: float | None, seed: int) -> Measured:
    return _measure(model, word_model_metrics(model, texts), artifact, model.parameters, seconds, seed)


def _measure_llm(artifact: Path, scored: dict[str, Any], parameters: int, seconds: float | None, seed: int) -> Measured:
    with open_artifact(artifact) as llm:
        return _measure(llm, scored, artifact, parameters, seconds, seed)


def _measure(
    model: TextModel, scored: dict[str, Any], artifact: Path | None, parameters: int, seconds: float | None, seed: int
) -> Measured:
    size = None
    if artifact is not None:  # without the page of an earlier comparison
        size = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file() and path.parent.name != "comparison")
    generated = asyncio.run(_generate(model, seed))
    return Measured(**scored, parameters=parameters, artifact_bytes=size, training_seconds=seconds, **generated)


async def _generate(model: TextModel, seed: int) -> dict[str, Any]:
    """The samples, and the times of requests one after the other; the first one warms up."""
    samples = ["".join([token.text async for token in model.stream(prompt, SamplingParams(40, seed=seed))]) for prompt in PROMPTS]
    times, tokens = [], 0
    for request in range(REQUESTS):
        began = time.perf_counter()
        prompt, params = PROMPTS[request % len(PROMPTS)], SamplingParams(LENGTH, seed=seed + request)
        tokens += len([token async for token in model.stream(prompt, params)])
        times.append(time.perf_counter() - began)
    return {"samples": samples, "tokens_per_second": tokens / sum(times), "latency_seconds": statistics.median(times)}
