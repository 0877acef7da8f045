"""The word models against what most would take instead: `make bench-baselines`.

Each contestant learns and writes in a process of its own, in turn, on the same texts: the contexts of --dataset (data/quickstart). The
bigrams have one core each: trigen's, markovify's Markov chain of state size 1, and nltk's interpolated Kneser-Ney. The LSTMs have the same
sizes, random weights and a vocabulary of 30,000 words: trigen's as it serves, and torch's nn.LSTM with a full softmax in the loop
of most tutorials, which feeds the whole text again for each word, and in one that keeps the state.
"""

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.contestants import run_contestant
from training.errors import TrainingError

BIGRAM_WORDS, LSTM_WORDS = 200_000, 200
PEER_SECONDS = 10.0
"""What a peer that writes slowly may take."""


def texts_of(dataset: str) -> list[str]:
    """The contexts that the word models learn from."""
    from training.data.selection import contexts
    from training.data.squad import load_splits

    return contexts(load_splits(dataset).train)


def bigram(dataset: str) -> dict[str, float]:
    """Trigen's: from texts to counts, and the words of `stream` at the defaults of a request."""
    from models.base import SamplingParams
    from models.bigram import Bigram

    texts = texts_of(dataset)
    began = time.perf_counter()
    model = Bigram.fit(texts)
    fitted = time.perf_counter() - began

    async def write(words: int) -> int:
        return sum([1 async for _ in model.stream("The", SamplingParams(words))])

    began = time.perf_counter()
    words = asyncio.run(write(BIGRAM_WORDS))
    return {"fit_seconds": fitted, "words_per_second": words / (time.perf_counter() - began)}


def markovify(dataset: str) -> dict[str, float]:
    """State size 1, the original texts not kept, sentences not compared with them; compiled, as its documentation advises."""
    from markovify import NewlineText

    text = "\n".join(text.replace("\n", " ") for text in texts_of(dataset))
    began = time.perf_counter()
    model = NewlineText(text, state_size=1, well_formed=False, retain_original=False).compile()
    fitted, began, words = time.perf_counter() - began, time.perf_counter(), 0
    while words < BIGRAM_WORDS and time.perf_counter() - began < PEER_SECONDS:
        words += len(model.make_sentence(test_output=False).split())
    return {"fit_seconds": fitted, "words_per_second": words / (time.perf_counter() - began)}


def nltk(dataset: str) -> dict[str, float]:
    """Interpolated Kneser-Ney of order 2, with the words that occur once as unknown, as trigen's."""
    from nltk.lm import KneserNeyInterpolated, Vocabulary
    from nltk.lm.preprocessing import padded_everygram_pipeline
    from nltk.tokenize import wordpunct_tokenize

    texts = texts_of(dataset)
    began = time.perf_counter()
    tokens = [wordpunct_tokenize(text) for text in texts]
    ngrams, flat = padded_everygram_pipeline(2, tokens)
    model = KneserNeyInterpolated(2, vocabulary=Vocabulary(flat, unk_cutoff=2))
    model.fit(ngrams)
    fitted, began, words = time.perf_counter() - began, time.perf_counter(), 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(int(PEER_SECONDS))  # it looks at every word of the vocabulary, at each of them in all counts: a word may take minutes
    try:
        while True:
            model.generate(1, text_seed=["The"], random_seed=words)
            words += 1
    except KeyboardInterrupt:
        return {"fit_seconds": fitted, "words_per_second": max(words, 1) / (time.perf_counter() - began)}


def lstm(dataset: str) -> dict[str, float]:  # noqa: ARG001
    """Trigen's as it serves: NumPy, the state kept."""
    from models.base import SamplingParams
    from models.rnn import LSTM
    from models.spelling import Spelling
    from models.words import Vocabulary
    from training.word_models.lstm import LSTMLanguageModel, Shape

    trained = LSTMLanguageModel(Shape().vocabulary, Shape())
    words = Vocabulary([f" word{n}" for n in range(Shape().vocabulary - 2)])
    model = LSTM(words, Spelling.fit([]), {name: weight.detach().numpy() for name, weight in trained.named_parameters()})

    async def write() -> None:
        async for _ in model.stream("word1", SamplingParams(LSTM_WORDS)):
            pass

    return _words_per_second(lambda: asyncio.run(write()))


def plain_lstm(keep_state: bool) -> dict[str, float]:
    """The loop of tutorials, in torch with all cores; or the better one."""
    import torch
    from torch import nn

    from training.word_models.lstm import Shape

    shape = Shape()
    embedding = nn.Embedding(shape.vocabulary, shape.width)
    layers = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True).eval()
    decoder = nn.Linear(shape.width, shape.vocabulary)

    @torch.inference_mode()
    def write() -> None:
        words, state = [1], None
        for _ in range(LSTM_WORDS):
            read = torch.tensor([words[-1:] if keep_state else words])
            outputs, after = layers(embedding(read), state)
            state = after if keep_state else None
            words.append(int(torch.multinomial(torch.softmax(decoder(outputs[0, -1]) / 0.8, 0), 1)))

    return _words_per_second(write)


def _words_per_second(write: Callable[[], None]) -> dict[str, float]:
    write()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        write()
        times.append(time.perf_counter() - began)
    return {"words_per_second": LSTM_WORDS / statistics.median(times)}


BIGRAMS: dict[str, Callable[[str], dict[str, float]]] = {"trigen": bigram, "markovify": markovify, "nltk KneserNeyInterpolated": nltk}
LSTMS: dict[str, Callable[[str], dict[str, float]]] = {
    "trigen LSTM": lstm,
    "nn.LSTM, whole prefix": lambda _: plain_lstm(keep_state=False),
    "nn.LSTM, state kept": lambda _: plain_lstm(keep_state=True),
}


def _rate(words_per_second: float) -> str:
    return f"{words_per_second:,.0f}" if words_per_second >= 1 else f"at most {words_per_second:.1f}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


def compare(dataset: str) -> None:
    """Run every contestant, and print a line of a table for each."""
    results = {}
    for name in (*BIGRAMS, *LSTMS):
        print(f"{name} …", file=sys.stderr, flush=True)
        results[name] = run_contestant("benchmarks.baselines", name, "--dataset", dataset)
    ours = results["trigen"]
    print("| bigram, one core | fit, s | peak GB¹ | words/s | trigen fits faster by | trigen writes faster by |\n|---|---|---|---|---|---|")
    for name in BIGRAMS:
        one = results[name]
        print(
            f"| {name} | {one['fit_seconds']:.2f} | {one['peak_gb']:.2f} | {_rate(one['words_per_second'])} | "
            f"{one['fit_seconds'] / ours['fit_seconds']:.1f} | {_times(ours['words_per_second'] / one['words_per_second'])} |"
        )
    print(f"\n¹ of the whole process, {ours['before_gb']:.2f} GB of it before the fit: Python, the data set and its reader\n")
    print(f"| LSTM, {LSTM_WORDS} words | words/s | trigen is faster by |\n|---|---|---|")
    for name in LSTMS:
        rate = results[name]["words_per_second"]
        print(f"| {name} | {rate:,.0f} | {results['trigen LSTM']['words_per_second'] / rate:.1f} |")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="data/quickstart")
    parser.add_argument("--contestant", choices=[*BIGRAMS, *LSTMS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.contestant:
        try:
            texts_of(arguments.dataset)  # a wrong one is told of before anybody begins
        except TrainingError as error:
            sys.exit(f"{parser.prog}: {error}")
        compare(arguments.dataset)
        return
    if arguments.contestant in BIGRAMS and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    texts_of(arguments.dataset)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result = (BIGRAMS | LSTMS)[arguments.contestant](arguments.dataset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps(result | {"peak_gb": peak, "before_gb": before}))


if __name__ == "__main__":
    main()
