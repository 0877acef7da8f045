"""Questions that share their context have the same loss and gradients as separate rows."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from models.answering.prompts import ANSWER_FOLLOWS, answer_text, document_start, question_prompt, undecided_prompt
from training.data.batching import collate
from training.data.encoding import EncodingConfig, encode, encode_mixture
from training.data.selection import answerable
from training.data.squad import load_splits
from training.data.unanswerable import Mixture
from training.errors import TrainingError
from training.fine_tuning.attention import choose_attention
from training.fine_tuning.objective import SupervisedLoss


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_base)
    return loaded


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return answerable(load_splits("data/quickstart").train).select(range(24))


def expected(row: dict[str, dict[str, list[str]]], tokenizer: PreTrainedTokenizerBase, with_context: bool = True) -> list[int]:
    prompt = question_prompt(row["question"], row["context"] if with_context else None)  # type: ignore[arg-type]
    ids: list[int] = tokenizer(prompt + answer_text(row["answers"]["text"][0]))["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def read_back(sequence: dict[str, list[int]]) -> list[list[int]]:
    """Return the tokens that each segment attends to, including its own."""
    segments: dict[int, list[int]] = {}
    for id, segment in zip(sequence["input_ids"], sequence["segments"], strict=True):
        segments.setdefault(segment, []).append(id)
    shared = segments.pop(0, [])
    return [shared + ids if segment > 0 else ids for segment, ids in segments.items()]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(150, 800), st.floats(0, 1), st.booleans(), st.integers(1, 24))
def test_every_question_is_encoded_once_with_the_prompt_of_serving(
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, longest: int, free: float, share: bool, count: int
) -> None:
    rows = rows.select(range(count))
    fitting = [ids for row in rows if len(ids := expected(row, tokenizer)) <= longest]
    try:
        encoded = encode(rows, tokenizer, EncodingConfig(max_length=longest, share_context=share, context_free_share=free))
    except TrainingError:
        assert fitting == []
        return
    texts = [text for sequence in encoded for text in read_back(sequence)]
    context_free = [expected(row, tokenizer, with_context=False) for row in rows]
    assert sorted(text for text in texts if text not in context_free) == sorted(fitting)
    assert sum(encoded["questions"]) == len(fitting)
    for sequence in encoded:
        assert len(sequence["input_ids"]) == len(sequence["position_ids"]) == len(sequence["weights"]) == sequence["length"] <= longest
        assert sequence["supervised"] == sum(sequence["weights"])


@pytest.mark.parametrize(("bf16", "abstain"), [(False, False), (True, False), (False, True)])
def test_sharing_gives_the_loss_and_the_gradients_of_separate_rows(
    tiny_base: Path, tokenizer: PreTrainedTokenizerBase, rows: Dataset, bf16: bool, abstain: bool
) -> None:
    losses, gradients = [], []
    for share in (True, False):
        model = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
        choose_attention(model, torch.device("cpu"), bf16, 512)
        config = EncodingConfig(share_context=share, max_length=1000, context_free_share=0.5, abstain=abstain)
        encoded = encode(rows, tokenizer, config).with_format("numpy")
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = SupervisedLoss(model)(collate(list(encoded)))
        loss.backward()
        losses.append(loss.item() / sum(encoded["supervised"]))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=2e-3 if bf16 else 1e-5)
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < (2e-2 if bf16 else 1e-4)


def test_an_abstaining_model_learns_to_decide_before_it_answers(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    unanswerable = [row | {"answers": {"text": [], "answer_start": []}} for row in rows.select(range(5))]
    mixed = Dataset.from_list([*rows, *unanswerable], features=rows.features)
    config = EncodingConfig(abstain=True, decision_weight=0.5, max_length=1000)
    targets = []
    for sequence in encode(mixed, tokenizer, config):
        supervised: dict[int, list[tuple[int, float]]] = {}
        for id, segment, weight in zip(sequence["input_ids"], sequence["segments"], sequence["weights"], strict=True):
            if weight:
                supervised.setdefault(segment, []).append((id, weight))
        targets += list(supervised.values())
    end = tokenizer.eos_token_id
    follows = tokenizer(ANSWER_FOLLOWS)["input_ids"]
    answers = [tokenizer(answer_text(row["answers"]["text"][0]))["input_ids"] for row in rows]
    expected = [[(follows[0], 0.5), *((id, 1.0) for id in [*answer, end])] for answer in answers] + [[(end, 0.5)]] * 5
    assert sorted(targets) == sorted(expected)
    assert all(
        question_prompt(q, c) == undecided_prompt(q, c) + ANSWER_FOLLOWS for q, c in zip(rows["question"], rows["context"], strict=True)
    )
    assert sum(encode(mixed, tokenizer, EncodingConfig(max_length=1000))["questions"]) == len(rows)  # of a model that always answers


def test_contexts_that_are_too_long_leave_the_others_of_a_mixture(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    long = [row | {"context": row["context"] * 20, "answers": {"text": [], "answer_start": []}} for row in rows.select(range(3))]
    written, none = Dataset.from_list(long, features=rows.features), rows.select([])
    config = EncodingConfig(abstain=True, max_length=1000)
    encoded = encode_mixture(Mixture(written, 3, rows), tokenizer, config)
    assert sum(encoded["questions"]) == len(rows)
    assert sum(encode_mixture(Mixture(rows, 3, none), tokenizer, config)["questions"]) == 3 * len(rows)
    with pytest.raises(TrainingError, match="raise --max-length"):
        encode_mixture(Mixture(written, 3, none), tokenizer, config)


def test_sharing_needs_less_than_40_percent_of_the_tokens(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    shared, separate = (
        sum(encode(rows, tokenizer, EncodingConfig(share_context=share, max_length=1000))["length"]) for share in (True, False)
    )
    assert shared < 0.4 * separate


def test_question_twice_shares_nothing_and_weights_reach_the_prompt(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    encoded = encode(rows, tokenizer, EncodingConfig(order="question-twice", max_length=1000, prompt_weight=0.5))
    assert len(encoded) == len(rows)
    answer = len(expected(rows[0], tokenizer)) - len(tokenizer(question_prompt(rows[0]["question"], rows[0]["context"]))["input_ids"])
    assert set(encoded[0]["weights"][1:-answer]) == {0.5}
    assert encoded[0]["weights"][-answer:] == [1.0] * answer


def test_plain_text_is_the_context_after_a_documents_start(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    encoded = encode(rows, tokenizer, EncodingConfig(text_share=1.0, text_weight=0.25, max_length=1000))
    texts = [sequence for sequence in encoded if not any(sequence["segments"])]
    contexts = dict.fromkeys(rows["context"])
    assert [text["input_ids"] for text in texts] == [tokenizer(document_start(tokenizer) + context)["input_ids"] for context in contexts]
    assert all(set(text["weights"][1:]) == {0.25} for text in texts)


def test_a_tokenizer_that_merges_prompt_and_answer_raises(tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> None:
    class Lines:
        """One token per line, so that the answer changes the last token of the prompt."""

        backend_tokenizer, eos_token_id, bos_token = tokenizer.backend_tokenizer, -1, ""

        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[hash(line) for line in text.split("\n")] for text in texts]}

        def get_vocab(self) -> list[str]:
            return []

    with pytest.raises(TrainingError, match="merges the prompt's end"):
        encode(rows, Lines(), EncodingConfig())  # type: ignore[arg-type]
