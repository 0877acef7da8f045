"""Encode questions as training sequences in which the questions about one context share its tokens.

A sequence holds a context once, followed by one segment per question with its answer. Each segment attends to the
context and to itself, at the positions it would have if it alone followed the context. The sequence therefore has
exactly the losses and gradients of separate rows, with about a third of the tokens on SQuAD. (Juravsky et al.,
"Hydragen", arXiv:2402.05099, share prefixes this way for inference.)
"""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from models.answering import prompts
from models.answering.prompts import ANSWER_FOLLOWS, PromptOrder, answer_text, document_start, question_prompt, undecided_prompt
from training.data import hashing
from training.data.hashing import group_rows, is_chosen
from training.data.selection import answerable
from training.data.unanswerable import Mixture
from training.errors import TrainingError

MIN_SHARED = 16
"""The shortest common prefix, in tokens, that is worth sharing."""


@dataclass(frozen=True)
class EncodingConfig:
    """How a question-answering data set is encoded."""

    order: PromptOrder = "context-first"
    share_context: bool = True
    max_length: int = 384
    """The maximum length of a sequence in tokens. A question that exceeds it even alone is left out."""
    prompt_weight: float = 0.0
    """Loss weight of the prompt's tokens. The answer's tokens have weight 1."""
    text_share: float = 0.0
    """Share of the contexts that are also trained on as plain text, with weight `text_weight`."""
    text_weight: float = 0.0
    """Loss weight of the tokens of plain text."""
    context_free_share: float = 0.0
    """Share of the questions that are also trained on without their context."""
    abstain: bool = False
    """Train the model to decide first whether the context answers the question."""
    decision_weight: float = 1.0
    """Loss weight of that decision, which is one token."""


@dataclass
class TrainingSequence:
    """A training sequence under construction. Each list has one entry per token."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """Segment 0 is shared: every segment above 0 attends to it. A segment below 0 attends to itself only."""
    weights: list[float] = field(default_factory=list)
    """Loss weight of predicting this token from the one before it; 0 for the first token of a segment."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def append(self, ids: list[int], first_position: int, segment: int, weights: list[float]) -> None:
        """Append a segment."""
        self.input_ids += ids
        self.position_ids += range(first_position, first_position + len(ids))
        self.segments += [segment] * len(ids)
        self.weights += [0.0, *weights[1:]]


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> Dataset:
    """Encode `rows` as sequences, without those that have no answer unless `config.abstain`.

    The columns are `input_ids`, `position_ids`, `segments` and `weights` (see `TrainingSequence`), `length` in tokens,
    `supervised` (the sum of the weights) and `questions` (their number). `datasets` caches the result on disk.

    Raises TrainingError if the tokenizer merges the end of a prompt with its answer: serving sends the prompt alone, so
    the model would get tokens that it was never trained on. Also raises TrainingError if no question fits into
    `config.max_length`.
    """
    return _require_sequences(_encode(rows, tokenizer, config), config)


def encode_mixture(mixture: Mixture, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> Dataset:
    """Encode the rows of an epoch, in which some contexts are repeated. See `encode`."""
    parts = [_encode(mixture.written, tokenizer, config)] * mixture.repeats + [_encode(mixture.others, tokenizer, config)]
    return _require_sequences(concatenate_datasets([part for part in parts if len(part)] or parts[-1:]), config)


def _require_sequences(encoded: Dataset, config: EncodingConfig) -> Dataset:
    if not len(encoded):
        raise TrainingError(f"no training question with an answer fits into {config.max_length} tokens: raise --max-length")
    return encoded


def _encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> Dataset:
    if not config.abstain:
        rows = answerable(rows)
    grouped = rows.select(np.concatenate([np.empty(0, np.int64), *group_rows(rows["context"])])).select_columns(
        ["context", "question", "answers"]
    )
    # The default fingerprint pickles the function and the tokenizer, but a function's pickle does not change with its
    # code, and a tokenizer's changes with its first use. So hash the source code and the tokenizer's definition.
    sources = [
        Path(__file__).read_text(),
        inspect.getsource(prompts),
        inspect.getsource(hashing),
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.eos_token_id,
    ]
    return grouped.map(
        lambda batch: _encode_batch(batch, tokenizer, config),
        batched=True,
        remove_columns=grouped.column_names,
        new_fingerprint=Hasher.hash([grouped._fingerprint, sources, config]),
        desc="tokenizing",
    )


@dataclass(frozen=True)
class _Example:
    """The tokens of a prompt, its answer and the end of the text."""

    ids: list[int]
    prompt_length: int
    """The number of tokens in the prompt."""
    decides: bool = False
    """Whether the first token after the prompt is the decision whether there is an answer."""

    def __len__(self) -> int:
        return len(self.ids)

    def weights(self, config: EncodingConfig) -> list[float]:
        weights = [config.prompt_weight] * self.prompt_length + [1.0] * (len(self) - self.prompt_length)
        if self.decides:
            weights[self.prompt_length] = config.decision_weight
        return weights


def _encode_batch(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> dict[str, list[Any]]:
    """Encode a batch of rows as the columns of its sequences. `encode` maps this over the data set."""
    contexts, questions = batch["context"], batch["question"]
    answers = [references["text"][0] if references["text"] else None for references in batch["answers"]]
    spell = undecided_prompt if config.abstain else question_prompt
    prompts = [spell(question, context, config.order) for question, context in zip(questions, contexts, strict=True)]
    examples = _tokenize(prompts, answers, tokenizer, config.abstain)

    chosen = [i for i, question in enumerate(questions) if answers[i] is not None and is_chosen(question, config.context_free_share)]
    without_context = _tokenize([question_prompt(questions[i]) for i in chosen], [answers[i] for i in chosen], tokenizer, False)
    context_free = dict(zip(chosen, without_context, strict=True))

    groups = group_rows(contexts)
    sequences: list[TrainingSequence] = []
    for indices in groups:
        sequences += _pack([examples[i] for i in indices], [context_free.get(i) for i in indices], config)
    if config.text_weight:
        sequences += _plain_text(
            [context for context in dict.fromkeys(contexts) if is_chosen(context, config.text_share)], tokenizer, config
        )
    return {
        "input_ids": [sequence.input_ids for sequence in sequences],
        "position_ids": [sequence.position_ids for sequence in sequences],
        "segments": [sequence.segments for sequence in sequences],
        "weights": [sequence.weights for sequence in sequences],
        "length": [len(sequence) for sequence in sequences],
        "supervised": [sum(sequence.weights) for sequence in sequences],
        "questions": [len({segment for segment in sequence.segments if segment > 0}) for sequence in sequences],
    }


def _tokenize(prompts: list[str], answers: list[str | None], tokenizer: PreTrainedTokenizerBase, undecided: bool) -> list[_Example]:
    """Tokenize each prompt with its answer, or with nothing for None. Undecided prompts are continued with `ANSWER_FOLLOWS` first.

    Raises TrainingError if a prompt's tokens change when its answer follows, or if `ANSWER_FOLLOWS` is not one token.
    """
    if not prompts:
        return []
    follows = ANSWER_FOLLOWS if undecided else ""
    decided = [prompt if answer is None else prompt + follows for prompt, answer in zip(prompts, answers, strict=True)]
    full = [prompt if answer is None else prompt + answer_text(answer) for prompt, answer in zip(decided, answers, strict=True)]
    examples = []
    for prompt_ids, decided_ids, ids in zip(*(tokenizer(texts)["input_ids"] for texts in (prompts, decided, full)), strict=True):
        if ids[: len(decided_ids)] != decided_ids or decided_ids[: len(prompt_ids)] != prompt_ids or len(decided_ids) > len(prompt_ids) + 1:
            raise TrainingError(
                "this tokenizer merges the prompt's end with the answer: its base model cannot be trained with this template"
            )
        examples.append(_Example([*ids, tokenizer.eos_token_id], len(prompt_ids), undecided))
    return examples


def _pack(examples: list[_Example], context_free: list[_Example | None], config: EncodingConfig) -> Iterator[TrainingSequence]:
    """Yield the sequences of one context's questions.

    `context_free` holds, for each of the `examples`, the same question without its context, or None.
    """
    shared = _shared_prefix(examples) if config.share_context else 0
    sequence, questions = TrainingSequence(), 0
    for example, free in zip(examples, context_free, strict=True):
        if len(example) > config.max_length:
            continue
        if questions and (not shared or len(sequence) + len(example) - shared > config.max_length):
            yield sequence
            sequence, questions = TrainingSequence(), 0
        weights = example.weights(config)
        if shared and not questions:
            sequence.append(example.ids[:shared], 0, 0, weights[:shared])
        questions += 1
        sequence.append(example.ids[shared:], shared, questions, weights[shared:])

        if free is None or len(free) > config.max_length:
            continue
        if config.share_context and len(sequence) + len(free) <= config.max_length:
            sequence.append(free.ids, 0, -questions, free.weights(config))
        else:
            separate = TrainingSequence()
            separate.append(free.ids, 0, -1, free.weights(config))
            yield separate
    if questions:
        yield sequence


def _shared_prefix(examples: list[_Example]) -> int:
    """Return the length of the prompts' common prefix in tokens, or 0 if it is not worth sharing.

    The last token of a prompt is never shared: each segment needs its own to predict its answer's first token.
    """
    prefixes = [example.ids[: example.prompt_length - 1] for example in examples]
    shared = 0
    for tokens in zip(*prefixes, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared if len(examples) > 1 and shared >= MIN_SHARED else 0


def _plain_text(contexts: Iterable[str], tokenizer: PreTrainedTokenizerBase, config: EncodingConfig) -> Iterator[TrainingSequence]:
    """Yield each context as a separate document, truncated to `config.max_length`."""
    start = document_start(tokenizer)
    texts = [start + context for context in contexts]
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        ids = ids[: config.max_length]
        sequence = TrainingSequence()
        sequence.append(ids, 0, 0, [config.text_weight] * len(ids))
        yield sequence
