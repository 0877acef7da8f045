"""What is asked: prompts to continue, and questions about passages."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from models.llm import question_prompt

ROWS = Path(__file__).resolve().parents[2] / "data/quickstart/train.jsonl"
PROMPT_TOKENS, NEW_TOKENS = 16, (64, 100)
CONTEXT_WORDS, ANSWER_TOKENS = 150, 6
"""An answer of SQuAD with its end has 6.1 tokens on average."""
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
"""Random weights make all 50,000 tokens about as probable, so that top-p alone would sort them all at each step, as with trained weights it
hardly does: everyone samples among the 50 most probable first, the default of transformers' `generate` and of litgpt.
"""
GREEDY: dict[str, Any] = {"temperature": 0.0}


@dataclass(frozen=True)
class Ask:
    """One request, whoever answers it."""

    prompt: str
    """Everything that the model reads."""
    length: int
    """New tokens; random weights do not end a text by themselves."""
    seed: int
    question: str | None = None
    context: str | None = None
    """Of a question, which is asked greedily; a prompt without is continued by sampling (`SAMPLING`)."""


def completions(model: Path) -> Iterator[Ask]:
    """Prompts of 16 tokens from running text, to be continued by 64 to 100; without end, the same each time."""
    tokenizer, draw = Tokenizer.from_file(str(model / "tokenizer.json")), random.Random(0)
    texts = [tokenizer.encode(context).ids for context in dict.fromkeys(row["context"] for row in _rows())]
    for seed in itertools.count():
        ids = draw.choice(texts)
        at = draw.randrange(len(ids) - PROMPT_TOKENS)
        prompt = tokenizer.decode(ids[at : at + PROMPT_TOKENS]).rstrip("? ")  # which would make it a question
        yield Ask(prompt, draw.randint(*NEW_TOKENS), seed)


def questions(_: Path) -> Iterator[Ask]:
    """Each about a passage of 150 words of its own: no two begin alike."""
    draw, words = random.Random(0), " ".join(row["context"] for row in _rows()).split()
    rows = [row["question"] for row in _rows()]
    for seed in itertools.count():
        at = draw.randrange(len(words) - CONTEXT_WORDS)
        yield _question(draw.choice(rows), " ".join(words[at : at + CONTEXT_WORDS]), seed)


def one_passage(_: Path) -> Iterator[Ask]:
    """All about the same passage of 150 words."""
    draw, words = random.Random(1), " ".join(row["context"] for row in _rows()).split()
    rows, context = [row["question"] for row in _rows()], " ".join(words[:CONTEXT_WORDS])
    for seed in itertools.count():
        yield _question(draw.choice(rows), context, seed)


def _question(question: str, context: str, seed: int) -> Ask:
    return Ask(question_prompt(question, context), ANSWER_TOKENS, seed, question, context)


LOADS = {"completions": completions, "questions": questions, "one passage": one_passage}
"""Each takes the model's directory."""


def _rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()]
