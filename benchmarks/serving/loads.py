"""The loads: endless sequences of prompts to continue and of questions about passages, the same in every run."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from models.answering.prompts import question_prompt

ROWS = Path(__file__).resolve().parents[2] / "data/quickstart/train.jsonl"
PROMPT_TOKENS, NEW_TOKENS = 16, (64, 100)
CONTEXT_WORDS, ANSWER_TOKENS = 150, 6
"""SQuAD's answers have 6.1 tokens on average, including the end of text."""
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
"""The sampling parameters of every server. top_k=50 is the default of transformers' `generate` and of litgpt. Without it, top-p would sort
all 50,000 tokens at each step, because random weights make them about equally probable; with trained weights it rarely has to.
"""
GREEDY: dict[str, Any] = {"temperature": 0.0}
OBJECTIVES: dict[str, dict[str, float]] = {
    "completions": {"ttft": 1.0, "tpot": 0.1},
    "questions": {"e2el": 1.0},
    "one passage": {"e2el": 1.0},
}
"""The service level objectives of each load, by the names of `vllm bench serve --goodput`, in seconds: time to first token, time per output
token after the first, end-to-end latency. Ten tokens/s are about twice as fast as people read. Goodput (https://arxiv.org/abs/2401.09670)
counts only requests that meet all objectives.
"""


@dataclass(frozen=True)
class SampleRequest:
    """A request in a form that fits every server. Questions are answered greedily, other prompts are continued with `SAMPLING`."""

    prompt: str
    """The whole prompt, including the question and the context, if any."""
    length: int
    """The number of new tokens; random weights do not end a text by themselves."""
    seed: int
    question: str | None = None
    context: str | None = None
    """The passage that the question is about."""


def completions(model: Path, seed: int = 0) -> Iterator[SampleRequest]:
    """Yield prompts of 16 tokens from running text, each to be continued by 64 to 100 tokens."""
    tokenizer, rng = Tokenizer.from_file(str(model / "tokenizer.json")), random.Random(seed)
    texts = [tokenizer.encode(context).ids for context in dict.fromkeys(row["context"] for row in _rows())]
    for number in itertools.count():
        ids = rng.choice(texts)
        start = rng.randrange(len(ids) - PROMPT_TOKENS)
        prompt = tokenizer.decode(ids[start : start + PROMPT_TOKENS]).rstrip("? ")  # a final "?" would make it a question
        yield SampleRequest(prompt, rng.randint(*NEW_TOKENS), number)


def questions(_: Path, seed: int = 0) -> Iterator[SampleRequest]:
    """Yield questions, each about a different passage of 150 words, so that no prefix is shared."""
    rng, words = random.Random(seed), " ".join(row["context"] for row in _rows()).split()
    all_questions = [row["question"] for row in _rows()]
    for number in itertools.count():
        start = rng.randrange(len(words) - CONTEXT_WORDS)
        yield _question(rng.choice(all_questions), " ".join(words[start : start + CONTEXT_WORDS]), number)


def one_passage(_: Path) -> Iterator[SampleRequest]:
    """Yield questions about the same passage of 150 words."""
    rng, words = random.Random(1), " ".join(row["context"] for row in _rows()).split()
    all_questions, context = [row["question"] for row in _rows()], " ".join(words[:CONTEXT_WORDS])
    for seed in itertools.count():
        yield _question(rng.choice(all_questions), context, seed)


def _question(question: str, context: str, seed: int) -> SampleRequest:
    return SampleRequest(question_prompt(question, context), ANSWER_TOKENS, seed, question, context)


Load = Callable[[Path], Iterator[SampleRequest]]
LOADS: dict[str, Load] = {"completions": completions, "questions": questions, "one passage": one_passage}
"""Each function takes the model's directory."""


def _rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()]
