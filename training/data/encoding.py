"""From questions to training sequences: the questions about one context share its tokens.

A sequence holds a context once and behind it, as segments, its questions with their answers. Each segment reads the context and
itself, at the positions that it would have alone, so the sequence gives exactly the losses and gradients of its rows one by one, for
about a third of SQuAD's tokens. (Shared-prefix attention: Juravsky et al., "Hydragen", arXiv:2402.05099, for inference.)
"""

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from models import llm
from models.llm import PromptOrder, answer_text, document_start, question_prompt
from training.errors import TrainingError

MIN_SHARED = 16
"""Tokens that prompts must share before it pays to compute them once."""


@dataclass(frozen=True)
class EncodingConfig:
    """What is made of a question-answering data set."""

    order: PromptOrder = "context-first"
    share_context: bool = True
    max_length: int = 384
    """Tokens of a sequence at most; a row that is longer by itself is left out."""
    prompt_weight: float = 0.0
    """Weight in the loss of a prompt's tokens; an answer's have weight 1."""
    text_share: float = 0.0
    """Share of the contexts that are learned as plain text too, …"""
    text_weight: float = 0.0
    """… with this weight in the loss of their tokens."""
    context_free_share: float = 0.0
    """Share of the questions that are asked without their context too."""


@dataclass
class TrainingSequence:
    """A training sequence under construction; its lists have one entry a token."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """0: shared by the segments above 0; below 0: a segment that does not see what is shared."""
    weights: list[float] = field(default_factory=list)
    """Of the loss of predicting this token from the one before it; 0 where a segment begins."""

    def add(self, ids: list[int], first_position: int, segment: int, weights: list[float]) -> None:
        """Append a segment."""
        self.input_ids += ids
        self.position_ids += range(first_position, first_position + len(ids))
        self.segments += [segment] * len(ids)
        self.weights += [0.0, *weights[1:]]


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> Dataset:
    """Sequences of the answerable `rows`: columns `input_ids`, `position_ids`, `segments`, `weights` (see `TrainingSequence`), `length` in
    tokens, `supervised` (the sum of the weights) and `questions`. Cached on disk by `datasets`.

    Raises TrainingError where the tokenizer merges the end of a prompt with its answer (serving sends the prompt alone, so
    such a model would never have seen what it is asked), and where nothing fits into `config.max_length`.
    """
    places: dict[str, list[int]] = {}
    for at, (context, answers) in enumerate(zip(rows["context"], rows["answers"], strict=True)):
        if answers["text"]:
            places.setdefault(context, []).append(at)
    grouped = rows.select([at for group in places.values() for at in group]).select_columns(["context", "question", "answers"])
    # A tokenizer's pickle changes with its first use, and a function's does not with its code: neither names a cache.
    sources = [Path(__file__).read_text(), inspect.getsource(llm), tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id]
    encoded = grouped.map(
        lambda batch: _columns(batch, tokenizer, config),
        batched=True,
        remove_columns=grouped.column_names,
        new_fingerprint=Hasher.hash([grouped._fingerprint, sources, config]),
        desc="tokenizing",
    )
    if not len(encoded):
        raise TrainingError(f"no training question with an answer fits into {config.max_length} tokens: raise --max-length")
    return encoded


@dataclass(frozen=True)
class _Row:
    """A question with its answer and the end of the text, in tokens."""

    ids: list[int]
    prompt: int
    """How many of them are the prompt."""

    def weights(self, config: EncodingConfig) -> list[float]:
        return [config.prompt_weight] * self.prompt + [1.0] * (len(self.ids) - self.prompt)


def _columns(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> dict[str, list[Any]]:
    contexts, questions = batch["context"], batch["question"]
    answers = [references["text"][0] for references in batch["answers"]]
    inside = _rows([question_prompt(*pair, config.order) for pair in zip(questions, contexts, strict=True)], answers, tokenizer)
    drawn = [at for at, question in enumerate(questions) if _drawn(question, config.context_free_share)]
    outside = dict(
        zip(drawn, _rows([question_prompt(questions[at]) for at in drawn], [answers[at] for at in drawn], tokenizer), strict=True)
    )
    groups: dict[str, list[int]] = {}
    for at, context in enumerate(contexts):
        groups.setdefault(context, []).append(at)
    sequences = [
        sequence for group in groups.values() for sequence in _pack([inside[at] for at in group], [outside.get(at) for at in group], config)
    ]
    start = document_start(tokenizer)
    texts = [start + context for context in groups if config.text_weight and _drawn(context, config.text_share)]
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        sequences.append(TrainingSequence())
        sequences[-1].add(ids[: config.max_length], 0, 0, [config.text_weight] * len(ids[: config.max_length]))
    return {
        **{name: [getattr(sequence, name) for sequence in sequences] for name in ("input_ids", "position_ids", "segments", "weights")},
        "length": [len(sequence.input_ids) for sequence in sequences],
        "supervised": [sum(sequence.weights) for sequence in sequences],
        "questions": [len({segment for segment in sequence.segments if segment > 0}) for sequence in sequences],
    }


def _rows(prompts: list[str], answers: list[str], tokenizer: PreTrainedTokenizerBase) -> list[_Row]:
    if not prompts:
        return []
    before = tokenizer(prompts)["input_ids"]
    both = tokenizer([prompt + answer_text(answer) for prompt, answer in zip(prompts, answers, strict=True)])["input_ids"]
    if any(ids[: len(prompt)] != prompt for prompt, ids in zip(before, both, strict=True)):
        raise TrainingError("this tokenizer merges the prompt's end with the answer: its base model cannot be trained with this template")
    return [_Row([*ids, tokenizer.eos_token_id], len(prompt)) for prompt, ids in zip(before, both, strict=True)]


def _pack(inside: list[_Row], outside: list[_Row | None], config: EncodingConfig) -> Iterator[TrainingSequence]:
    """The sequences of one context's questions: `inside` with the context, `outside` those that are asked without it too."""
    shared = min(_common(inside[0].ids, row.ids, min(row.prompt, inside[0].prompt)) for row in inside)
    if not config.share_context or len(inside) == 1 or shared < MIN_SHARED:
        shared = 0
    sequence, segment = TrainingSequence(), 0
    for row, free in zip(inside, outside, strict=True):
        if len(row.ids) > config.max_length:
            continue
        if segment and (not shared or len(sequence.input_ids) + len(row.ids) - shared > config.max_length):
            yield sequence
            sequence, segment = TrainingSequence(), 0
        segment += 1
        if shared and segment == 1:
            sequence.add(row.ids[:shared], 0, 0, row.weights(config)[:shared])
        sequence.add(row.ids[shared:], shared, segment, row.weights(config)[shared:])
        if free and config.share_context and len(sequence.input_ids) + len(free.ids) <= config.max_length:
            sequence.add(free.ids, 0, -segment, free.weights(config))
        elif free and len(free.ids) <= config.max_length:
            alone = TrainingSequence()
            alone.add(free.ids, 0, -1, free.weights(config))
            yield alone
    if segment:
        yield sequence


def _common(one: list[int], other: list[int], most: int) -> int:
    """Tokens that two rows begin with alike, fewer than `most`: each segment keeps a token of its own prompt, which predicts."""
    return next((at for at in range(most - 1) if one[at] != other[at]), most - 1)


def _drawn(text: str, share: float) -> bool:
    """Whether a text is among the `share` that its hash draws: the same ones in each run, in any order."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < share * 2**64
