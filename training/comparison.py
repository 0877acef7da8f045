"""Three generations on the same bytes: what each model of a run predicts, weighs, took and delivers on this machine.

    python -m training.comparison [DIRECTORY]      of a run that is finished (runs/latest), again

The held-out contexts are whole, each read from its beginning by each model. Bits per UTF-8 byte compare any two of them (Gao et al. 2020,
arXiv:2101.00027, section 3.1); perplexity per word is the same bits over the same words. A word outside a vocabulary costs its spelling too
(`models/spelling.py`), and the end of a text is not charged. The engine that serves writes the samples and gives the times.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.base import SamplingParams, TextModel
from models.bigram import Bigram
from models.rnn import LSTM
from models.words import tokenize
from training.base_model import load_base
from training.bits_per_byte import bits_and_bytes, longest, scores, word_model_scores
from training.comparison_report import write_comparison
from training.config import Config
from training.data import Splits, contexts, draw, load_splits
from training.device import choose_device
from training.errors import TrainingError
from training.qa import loaded, save_artifact
from training.run import read_config, read_metrics

CONTEXTS = 100
"""Held-out contexts that are compared on."""
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


class NothingToCompare(TrainingError):
    """The models are there, and no text that all of them could read; nothing of the training is lost."""


def compare(config: Config, splits: Splits, metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure the models of `config.output_dir` that `metrics` names, each beside what it improves on. Raises `NothingToCompare`."""
    texts = contexts(draw(splits.test, None, config.seed))
    base = load_base(config.base_model, config.max_length, 0.0) if "llm" in metrics else None
    if base:
        limit = longest(base[0])
        texts = [text for text in texts[: 2 * CONTEXTS] if len(base[1](text)["input_ids"]) < limit]
    if not (texts := texts[:CONTEXTS]):
        raise NothingToCompare("no held-out context fits the LLM's window: there is nothing to compare on")
    output, models = config.output_dir, {}
    if "bigram" in metrics:
        bigram = Bigram.load(output / "bigram")
        models["unigram"] = _measure_words(bigram.unigram(), texts, None, None, config)
        models["bigram"] = _measure_words(bigram, texts, metrics["bigram"]["seconds"], _size(output / "bigram"), config)
    if "rnn" in metrics:
        models["rnn"] = _measure_words(LSTM.load(output / "rnn"), texts, metrics["rnn"]["seconds"], _size(output / "rnn"), config)
    if base:
        model, tokenizer = base
        with tempfile.TemporaryDirectory() as scratch:
            save_artifact(model, tokenizer, Path(scratch) / "base", config)
            models["base"] = _measure_llm(model, tokenizer, Path(scratch) / "base", texts, None, config)
        tuned, _ = load_base(str(output / "llm"), config.max_length, 0.0)
        models["llm"] = _measure_llm(tuned, tokenizer, output / "llm", texts, metrics["llm"]["seconds"], config)
    return {
        "contexts": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "words": sum(len(tokenize(text)) for text in texts),
        "prompts": list(PROMPTS),
        "seed": config.seed,
        "machine": choose_device()[2],
        "models": {name: asdict(measured) for name, measured in models.items()},
    }


def _measure_words(model: Bigram | LSTM, texts: list[str], seconds: float | None, size: int | None, config: Config) -> Measured:
    return Measured(
        **word_model_scores(model, texts),
        parameters=model.parameters,
        artifact_bytes=size,
        training_seconds=seconds,
        **asyncio.run(_generate(model, config.seed)),
    )


def _measure_llm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, artifact: Path, texts: list[str], seconds: float | None, config: Config
) -> Measured:
    device, bf16, _ = choose_device()
    model.to(device)  # type: ignore[arg-type]  # a wrapper of transformers hides the signature
    bits, _ = bits_and_bytes(model, tokenizer, texts, longest(model), bf16)
    with loaded(artifact) as llm:
        generated = asyncio.run(_generate(llm, config.seed))
    return Measured(
        **scores(bits, texts),
        parameters=model.num_parameters(),
        artifact_bytes=_size(artifact),
        training_seconds=seconds,
        **generated,
    )


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


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("runs/latest"))
    directory = parser.parse_args().directory
    try:
        config, metrics = read_config(directory), read_metrics(directory)
        page = write_comparison(directory, compare(config, load_splits(config.dataset), metrics), metrics)
    except TrainingError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(page.read_text(encoding="utf-8").split("\n![")[0])
    print(f"plots and samples: {page}")


if __name__ == "__main__":
    main()
