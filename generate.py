"""Continue a text, or answer a question, from the command line and without the service.

    python generate.py "The lighthouse stood"                             the newest LLM in the model store
    python generate.py --model rnn "The light"                            the newest LSTM there; or bigram
    python generate.py --model runs/latest/llm "The light"                any artifact of train.py
    python generate.py --model HuggingFaceTB/SmolLM2-135M "The light"     any causal LM: a Hub id or a Hugging Face directory
    python generate.py --context passage.txt "Who kept the light?"        an answer from a passage

The engine and its weights are those of the service.
"""

import asyncio
import contextlib
import secrets
import sys
import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from models.answering.answers import AnswerOptions
from models.answering.prompts import is_question
from models.base import PromptTooLong, SamplingParams, Token
from models.bigram import Bigram
from models.llm import LLM, SETTINGS_FILE
from models.rnn import RNN
from models.store import TAGS, find
from training.device import silence_libraries
from training.errors import TrainingError
from training.export.artifact import open_artifact, save_artifact
from training.fine_tuning.base_model import load_base

RANGES = {
    "length": (1, 100_000), "temperature": (0, 100), "top_k": (0, 10**9), "top_p": (0, 1), "seed": (0, 2**32 - 1), "answers": (1, 10),
    "no_answer_threshold": (0, 1),
}  # fmt: skip
MAX_PATH = 4096
"""A longer --context cannot be the name of a file."""


@dataclass(frozen=True)
class Options:
    """Continue a text, or answer a question, with a trained model."""

    prompt: Annotated[str, tyro.conf.Positional]
    """The beginning of a text, or a question: the LLM answers a prompt that ends in a question mark."""
    model: str = "llm"
    """The newest llm, rnn or bigram in the model store; the directory of an artifact, such as runs/latest/llm; or a Hub id or a
    Hugging Face directory of a causal LM."""
    context: str | None = None
    """Answer the prompt from this passage: the name of a text file, or the passage itself. Only for an LLM."""
    length: int = 64
    """The maximum number of new words (bigram, LSTM) or tokens (LLM)."""
    temperature: float | None = None
    """Divides the logits before sampling; 0 always takes the most probable word. By default 0 for a question and 0.8 for a text, as in the
    service."""
    top_k: int = 0
    """Sample from this many most probable words; 0 means from all."""
    top_p: float = 0.95
    """Sample from the most probable words that together have this probability."""
    seed: int | None = None
    """The same seed gives the same text. Drawn at random if not given."""
    stop: tuple[str, ...] = ()
    """End the text before any of these strings."""
    no_answer_threshold: float | None = None
    """Decline above this probability that the passage does not tell; 1 always answers. By default the model's own."""
    extractive: bool = False
    """Answer with words of the passage only."""
    answers: int = 1
    """Show this many best answers."""

    def __post_init__(self) -> None:
        for name, (lowest, highest) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not lowest <= value <= highest:
                raise ValueError(f"--{name.replace('_', '-')} must be from {lowest} to {highest:,}, not {value}")


def main(options: Options) -> None:
    """Print the text as it is generated, or the answer."""
    with open_model(options.model) as model:
        if options.context is not None and not isinstance(model, LLM):
            raise TrainingError(f"--context: {options.model} answers no questions, an LLM does")
        asks = isinstance(model, LLM) and is_question(options.prompt)
        seed = secrets.randbelow(2**32) if options.seed is None else options.seed
        temperature = (0 if asks else SamplingParams.temperature) if options.temperature is None else options.temperature
        params = SamplingParams(options.length, temperature, options.top_k, options.top_p, seed, options.stop)
        try:
            if options.context is not None:
                asyncio.run(print_answer(model, options))
            elif asks:
                asyncio.run(print_stream("", model.ask(options.prompt, None, params)))
            else:
                asyncio.run(print_stream(options.prompt, model.stream(options.prompt, params)))
        except PromptTooLong as error:
            raise TrainingError(f"the prompt is too long: {error}") from error


@contextlib.contextmanager
def open_model(source: str) -> Iterator[Any]:
    """Load the model that `--model` names, and close it afterwards. Raises TrainingError if there is none."""
    directory = Path(source).expanduser()
    if source in TAGS:
        stored = find(source)
        if stored is None:
            raise TrainingError(
                f"there is no {TAGS[source]} in the model store: train one (`python train.py --preset quickstart`), or give --model"
            )
        directory = Path(stored.path)
    with contextlib.ExitStack() as stack:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the text
            if (directory / "counts.npz").exists():
                model: Any = Bigram.load(directory)
            elif (directory / "lstm.safetensors").exists():
                model = stack.enter_context(contextlib.closing(RNN.load(directory)))
            else:
                if not (directory / SETTINGS_FILE).exists():
                    try:
                        base = load_base(source, 1)
                    except TrainingError as error:
                        raise TrainingError(f"--model: {error}") from error
                    directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "llm"
                    save_artifact(*base, directory, "context-first")
                model = stack.enter_context(open_artifact(directory))
        yield model


async def print_stream(prompt: str, tokens: AsyncGenerator[Token]) -> None:
    """Print a text while it grows."""
    print(prompt, end="", flush=True)
    async for token in tokens:
        print(token.text, end="", flush=True)
    print()


async def print_answer(model: LLM, options: Options) -> None:
    """Print the answer to the prompt, how sure the model is, and the next best ones."""
    assert options.context is not None
    wanted = AnswerOptions(options.length, options.no_answer_threshold, options.extractive, options.answers)
    answer = await model.answer(options.prompt, read_context(options.context), wanted)
    if answer.answer is None:
        print(f"Not in this passage ({answer.score:.0%} sure)")
        return
    for candidate in answer.candidates or (answer,):
        place = "" if candidate.start is None else f", characters {candidate.start} to {candidate.end}"
        print(f"{candidate.answer} ({candidate.score:.0%} sure{place})")


def read_context(context: str) -> str:
    """Return the passage that `--context` names or holds. Raises TrainingError if it is a file without text."""
    file = Path(context).expanduser()
    if len(context) >= MAX_PATH or not file.is_file():
        return context
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"--context {context}: not a readable text file in UTF-8 ({error})") from error


if __name__ == "__main__":
    silence_libraries(True)
    try:
        main(tyro.cli(Options))
    except TrainingError as error:
        print(f"generate.py: {error}", file=sys.stderr)
        sys.exit(2)
