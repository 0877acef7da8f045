"""Compare the word models with the usual alternatives: `make bench-baselines`.

The contestants run one after the other, each in a separate process, on the same texts: the contexts of --dataset.

    bigrams, one core each    trigen's; markovify's Markov chain of state size 1; nltk's interpolated Kneser-Ney
    LSTMs                     trigen's as the service runs it, one text and 32 at once; torch's nn.LSTM with a full softmax, in the loop
                              of most tutorials, which reads the whole text again for each word, and in a loop that keeps the state

The LSTMs have the same sizes, random weights and a vocabulary of 30,000 words.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.contestants import run_contestant
from training.errors import TrainingError

BIGRAM_WORDS, LSTM_WORDS = 200_000, 200
PEER_SECONDS = 10.0
"""The time limit for the generation of a slow peer."""


def training_texts(dataset: str) -> list[str]:
    """Return the training contexts of `dataset`."""
    from training.data.selection import contexts
    from training.data.squad import load_splits

    return list(contexts(load_splits(dataset).train))


def measure_bigram(dataset: str) -> dict[str, float]:
    """Fit trigen's bigram, and generate with the defaults of a request."""
    from models.base import SamplingParams
    from models.bigram import Bigram

    texts = training_texts(dataset)
    started = time.perf_counter()
    model = Bigram.fit(texts)
    fit_seconds = time.perf_counter() - started

    async def generate(words: int) -> int:
        return sum([1 async for _ in model.stream("The", SamplingParams(words))])

    started = time.perf_counter()
    words = asyncio.run(generate(BIGRAM_WORDS))
    return {"fit_seconds": fit_seconds, "words_per_second": words / (time.perf_counter() - started)}


def measure_markovify(dataset: str) -> dict[str, float]:
    """Fit markovify's chain at its fastest: compiled, as its documentation advises, and without comparing sentences with the texts."""
    from markovify import NewlineText

    text = "\n".join(text.replace("\n", " ") for text in training_texts(dataset))
    started = time.perf_counter()
    model = NewlineText(text, state_size=1, well_formed=False, retain_original=False).compile()
    fit_seconds, started, words = time.perf_counter() - started, time.perf_counter(), 0
    while words < BIGRAM_WORDS and time.perf_counter() - started < PEER_SECONDS:
        words += len(model.make_sentence(test_output=False).split())
    return {"fit_seconds": fit_seconds, "words_per_second": words / (time.perf_counter() - started)}


def measure_nltk(dataset: str) -> dict[str, float]:
    """Fit nltk's interpolated Kneser-Ney of order 2; words that occur once are unknown, as in trigen's bigram."""
    from nltk.lm import KneserNeyInterpolated, Vocabulary
    from nltk.lm.preprocessing import padded_everygram_pipeline
    from nltk.tokenize import wordpunct_tokenize

    texts = training_texts(dataset)
    started = time.perf_counter()
    tokens = [wordpunct_tokenize(text) for text in texts]
    ngrams, flat = padded_everygram_pipeline(2, tokens)
    model = KneserNeyInterpolated(2, vocabulary=Vocabulary(flat, unk_cutoff=2))
    model.fit(ngrams)
    fit_seconds, started, words = time.perf_counter() - started, time.perf_counter(), 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    # For one word, nltk scores the whole vocabulary, and each score goes through all counts: that may take minutes.
    signal.alarm(int(PEER_SECONDS))
    try:
        while True:
            model.generate(1, text_seed=["The"], random_seed=words)
            words += 1
    except KeyboardInterrupt:
        return {"fit_seconds": fit_seconds, "words_per_second": max(words, 1) / (time.perf_counter() - started)}


def measure_lstm(concurrent: int) -> dict[str, float]:
    """Generate `concurrent` texts with trigen's LSTM as the service runs it: in a process of its own, which keeps the states."""
    from safetensors.torch import save_file

    from models.base import SamplingParams
    from models.rnn import RNN
    from models.spelling import Spelling
    from models.words import Vocabulary
    from training.word_models.lstm import LSTMConfig, LSTMLanguageModel

    untrained = LSTMLanguageModel(LSTMConfig().vocabulary_size, LSTMConfig())
    vocabulary = Vocabulary([f" word{n}" for n in range(LSTMConfig().vocabulary_size - 2)])
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary.save(Path(scratch) / "vocabulary.json")
        Spelling.fit([]).save(Path(scratch) / "spelling.npz")
        save_file(untrained.state_dict(), Path(scratch) / "lstm.safetensors")
        model = RNN.load(Path(scratch))

    async def generate_one(seed: int) -> None:
        async for _ in model.stream("word1", SamplingParams(LSTM_WORDS, seed=seed, final_only=True)):
            pass

    async def generate() -> None:
        await asyncio.gather(*(generate_one(seed) for seed in range(concurrent)))

    with closing(model):
        return _words_per_second(lambda: asyncio.run(generate()), concurrent * LSTM_WORDS)


def measure_torch_lstm(keep_state: bool) -> dict[str, float]:
    """Generate with torch's nn.LSTM on all cores, in the loop of tutorials or in one that keeps the state."""
    import torch
    from torch import nn

    from training.word_models.lstm import LSTMConfig

    config = LSTMConfig()
    embedding = nn.Embedding(config.vocabulary_size, config.width)
    layers = nn.LSTM(config.width, config.width, config.layers, batch_first=True).eval()
    decoder = nn.Linear(config.width, config.vocabulary_size)

    @torch.inference_mode()
    def generate() -> None:
        words, state = [1], None
        for _ in range(LSTM_WORDS):
            inputs = torch.tensor([words[-1:] if keep_state else words])
            outputs, new_state = layers(embedding(inputs), state)
            state = new_state if keep_state else None
            words.append(int(torch.multinomial(torch.softmax(decoder(outputs[0, -1]) / 0.8, 0), 1)))

    return _words_per_second(generate)


def _words_per_second(generate: Callable[[], None], words: int = LSTM_WORDS) -> dict[str, float]:
    generate()  # warm-up
    times = []
    for _ in range(5):
        started = time.perf_counter()
        generate()
        times.append(time.perf_counter() - started)
    return {"words_per_second": words / statistics.median(times)}


BIGRAMS: dict[str, Callable[[str], dict[str, float]]] = {
    "trigen": measure_bigram,
    "markovify": measure_markovify,
    "nltk KneserNeyInterpolated": measure_nltk,
}
LSTMS: dict[str, Callable[[str], dict[str, float]]] = {
    "trigen LSTM": lambda _: measure_lstm(concurrent=1),
    "trigen LSTM, 32 texts at once": lambda _: measure_lstm(concurrent=32),
    "nn.LSTM, whole prefix": lambda _: measure_torch_lstm(keep_state=False),
    "nn.LSTM, state kept": lambda _: measure_torch_lstm(keep_state=True),
}


def _format_rate(words_per_second: float) -> str:
    return f"{words_per_second:,.0f}" if words_per_second >= 1 else f"at most {words_per_second:.1f}"


def _format_ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


def compare(dataset: str) -> None:
    """Run every contestant and print a table with one row for each."""
    results = {}
    for name in (*BIGRAMS, *LSTMS):
        print(f"running {name}", file=sys.stderr, flush=True)
        results[name] = run_contestant("benchmarks.baselines", name, "--dataset", dataset)
    trigen = results["trigen"]
    print("| bigram, one core | fit, s | peak GB¹ | words/s | trigen fits faster by | trigen writes faster by |\n|---|---|---|---|---|---|")
    for name in BIGRAMS:
        fit_seconds, words_per_second = results[name]["fit_seconds"], results[name]["words_per_second"]
        print(
            f"| {name} | {fit_seconds:.2f} | {results[name]['peak_gb']:.2f} | {_format_rate(words_per_second)} | "
            f"{fit_seconds / trigen['fit_seconds']:.1f} | {_format_ratio(trigen['words_per_second'] / words_per_second)} |"
        )
    print(f"\n¹ of the whole process; Python, the data set and its reader take {trigen['before_gb']:.2f} GB of it before the fit\n")
    print(f"| LSTM, {LSTM_WORDS} words | words/s | trigen is faster by |\n|---|---|---|")
    for name in LSTMS:
        rate = results[name]["words_per_second"]
        print(f"| {name} | {rate:,.0f} | {results['trigen LSTM']['words_per_second'] / rate:.1f} |")


def main() -> None:
    """Run the comparison, or one contestant of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="data/quickstart", help="a directory or Hub id in SQuAD's schema (default: data/quickstart)")
    parser.add_argument("--contestant", choices=[*BIGRAMS, *LSTMS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.contestant:
        try:
            training_texts(arguments.dataset)  # fail before the first contestant starts
        except TrainingError as error:
            sys.exit(f"{parser.prog}: {error}")
        compare(arguments.dataset)
        return
    if arguments.contestant in BIGRAMS and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    training_texts(arguments.dataset)  # so that the memory before the fit includes the data set
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result = (BIGRAMS | LSTMS)[arguments.contestant](arguments.dataset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(result | {"peak_gb": peak, "before_gb": before}))


if __name__ == "__main__":
    main()
