"""From rows to batches: encoded prompts and answers, grouped by length under a token budget, padded on the right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from models.llm import answer_text, question_prompt
from training.errors import TrainingError


def encode_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Columns `input_ids` (prompt, first reference answer, end of text), `prompt_length` and `length`, in tokens.

    Raises TrainingError where the tokenizer merges the end of the prompt with the answer: serving sends the prompt alone,
    so such a model would never have seen what it is asked.
    """

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        prompts = [question_prompt(*pair) for pair in zip(batch["question"], batch["context"], strict=True)]
        whole = [prompt + answer_text(answers["text"][0]) for prompt, answers in zip(prompts, batch["answers"], strict=True)]
        prompt_ids, ids = tokenizer(prompts)["input_ids"], tokenizer(whole)["input_ids"]
        for before, both in zip(prompt_ids, ids, strict=True):
            if both[: len(before)] != before:
                raise TrainingError(
                    "this tokenizer merges the prompt's end with the answer: its base model cannot be trained with this template"
                )
            both.append(tokenizer.eos_token_id)
        return {
            "input_ids": ids,
            "prompt_length": [len(before) for before in prompt_ids],
            "length": [len(both) for both in ids],
        }

    return rows.map(encode, batched=True, remove_columns=rows.column_names, desc="tokenizing")


@dataclass(frozen=True)
class Batch:
    """Rows of a fine-tuning step, padded on the right: a causal model needs no attention mask for that."""

    input_ids: torch.Tensor
    """(rows, longest), int64."""
    positions: torch.Tensor
    """(supervised,): where, in `input_ids` flattened, the model must predict the answer's tokens and the end of the text."""
    targets: torch.Tensor
    """(supervised,): the tokens to predict there."""
    tokens: int
    """Tokens that are not padding."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.input_ids.to(device), self.positions.to(device), self.targets.to(device), self.tokens)


def collate(rows: Sequence[dict[str, Any]]) -> Batch:
    """A `Batch` of encoded rows. Only the answer and the end of the text are supervised; padding has id 0 and is not."""
    longest = max(len(row["input_ids"]) for row in rows)
    input_ids = np.zeros((len(rows), longest), dtype=np.int64)
    positions, targets = [], []
    for at, row in enumerate(rows):
        ids, prompt = np.asarray(row["input_ids"]), int(row["prompt_length"])
        input_ids[at, : len(ids)] = ids
        positions.append(at * longest + np.arange(prompt - 1, len(ids) - 1))
        targets.append(ids[prompt:])
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        positions=torch.from_numpy(np.concatenate(positions)),
        targets=torch.from_numpy(np.concatenate(targets)),
        tokens=sum(len(row["input_ids"]) for row in rows),
    )


class LengthBatchSampler(Sampler[list[int]]):
    """Batches of rows of like length, each at most `batch_tokens` tokens with its padding.

    The order is a pure function of the seed and the epoch: shuffle the rows, sort each pool of 1,024 by length, cut the pools into batches,
    shuffle the batches.
    """

    POOL = 1024

    def __init__(self, lengths: Sequence[int], batch_tokens: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_tokens, self.seed, self.epoch = batch_tokens, seed, 0
        self._batches = self._order(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch
        self._batches = self._order(epoch)

    def count(self, epochs: int) -> int:
        """Batches in the first `epochs` epochs together: how rows fall into batches differs from one to the next."""
        return sum(len(self._order(epoch)) for epoch in range(epochs))

    def _order(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng([self.seed, epoch])
        rows = generator.permutation(len(self.lengths))
        batches: list[list[int]] = []
        for start in range(0, len(rows), self.POOL):
            pool = rows[start : start + self.POOL]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batch: list[int] = []
            for row in pool.tolist():
                if batch and (len(batch) + 1) * self.lengths[row] > self.batch_tokens:
                    batches.append(batch)
                    batch = []
                batch.append(row)
            batches.append(batch)
        return [batches[at] for at in generator.permutation(len(batches))]

    def __len__(self) -> int:
        """Batches in the current epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of each batch's rows."""
        return iter(self._batches)
