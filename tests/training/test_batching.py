from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.llm import answer_text, question_prompt
from training.batching import LengthBatchSampler, collate, encode_rows
from training.data import load_splits, train_loader
from training.loop import learning_rate, supervised_loss

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "prompt_length": 3, "length": 5},
    {"input_ids": [1, 2, 3], "prompt_length": 1, "length": 3},
]


def test_only_the_answer_and_the_end_are_supervised() -> None:
    batch = collate(ROWS)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 0, 0]]
    assert batch.positions.tolist() == [2, 3, 5, 6]  # each predicts the token after it
    assert batch.targets.tolist() == [8, 9, 2, 3]
    assert batch.tokens == 8


def test_encoding_ends_with_the_answers_tokens_and_the_end_of_text(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = load_splits("data/quickstart").train.select(range(20))
    for row, encoded in zip(rows, encode_rows(rows, tokenizer), strict=True):
        prompt, tail = encoded["input_ids"][: encoded["prompt_length"]], encoded["input_ids"][encoded["prompt_length"] :]
        answer = answer_text(row["answers"]["text"][0])
        assert prompt == tokenizer(question_prompt(row["question"], row["context"]))["input_ids"]
        assert tail == [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        assert encoded["length"] == len(encoded["input_ids"])


def test_loss_is_that_of_the_model_with_labels_and_a_mask(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    batch = collate(ROWS)
    labels = torch.tensor([[-100, -100, -100, 8, 9], [-100, 2, 3, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = model(input_ids=batch.input_ids, attention_mask=mask, labels=labels).loss
    assert supervised_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(60, 400), st.integers(0, 5))
def test_every_row_once_within_the_budget_in_an_order_of_seed_and_epoch(lengths: list[int], budget: int, epoch: int) -> None:
    sampler = LengthBatchSampler(lengths, budget, seed=3)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[row] for row in batch) <= budget for batch in batches)
    again = LengthBatchSampler(lengths, budget, seed=3)
    again.set_epoch(epoch)
    assert list(again) == batches


def test_epochs_differ_and_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(20, 300, size=2_000).tolist()
    sampler = LengthBatchSampler(lengths, 2_048, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sampler.count(2) == len(first) + len(sampler)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for batch in first)
    assert sum(lengths) / padded > 0.95


def test_loader_leaves_out_what_is_too_long_or_has_no_answer(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = load_splits("data/quickstart").train.select(range(40))
    unanswered = rows.map(lambda row, at: {"answers": {"text": [], "answer_start": []}} if at == 0 else row, with_indices=True)
    lengths = encode_rows(rows, tokenizer)["length"]
    longest = int(np.median(lengths[1:]))
    loader, _ = train_loader(unanswered, tokenizer, 2_048, longest, seed=0)
    assert sum(len(batch.input_ids) for batch in loader) == sum(length <= longest for length in lengths[1:])


def test_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(1.0, at / 100) for at in range(101)]
    assert rates[0] == rates[100] == 0
    assert max(rates) == rates[5] == pytest.approx(1)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
