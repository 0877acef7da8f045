import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.bigram import Bigram
from models.words import BOUNDARY, tokenize
from tests.conftest import QUICKSTART
from training.data.squad import load_splits
from training.evaluation.bits_per_byte import CONTEXTS, bits_per_byte, excerpts, word_model_bits, word_model_metrics

TEXTS = ["The lighthouse was built in 1889.", "Of what was it made?", "Überall Granit, said the keeper of the light, who knew."]


def test_bits_per_byte_is_the_negative_log_likelihood_over_the_bytes(tiny_base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    bits = 0.0
    for text in TEXTS:
        ids = tokenizer("<|endoftext|>" + text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            bits += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
    measured = bits_per_byte(model, tokenizer, TEXTS, autocast=False)
    assert measured == pytest.approx(bits / sum(len(text.encode()) for text in TEXTS), rel=1e-4)


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(tiny_base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    tokens = len(tokenizer(TEXTS[0])["input_ids"])
    expected = tokens * math.log2(1000) / len(TEXTS[0])
    assert bits_per_byte(model, tokenizer, TEXTS[:1], autocast=False) == pytest.approx(expected, rel=1e-4)


def test_an_excerpt_fits_into_a_training_sequence(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    long = "Überall Granit: the lighthouse stands. " * 50
    excerpt, short = excerpts([long, TEXTS[0]], tokenizer, 40)
    assert long.startswith(excerpt)
    assert 30 < len(tokenizer(excerpt)["input_ids"]) <= 40
    assert short == TEXTS[0]
    assert len(excerpts([long] * (CONTEXTS + 1), tokenizer, 40)) == CONTEXTS


def test_a_word_models_bits_include_the_spelling_of_unknown_words() -> None:
    model = Bigram.fit(["the cat sat.", "the dog sat.", "a cat ran.", "a dog sat."])
    text = "the zebra sat."
    ids = [BOUNDARY, *model.vocabulary.encode(tokenize(text))]
    words = -sum(math.log2(model.probabilities(before)[after]) for before, after in pairwise(ids))
    assert word_model_bits(model, [text, text]) == pytest.approx(2 * (words + float(model.spelling.bits([" zebra"])[0])))
    metrics = word_model_metrics(model, [text])
    assert metrics["bits_per_byte"] * len(text) == pytest.approx(math.log2(metrics["word_perplexity"]) * 4)


def test_a_smaller_vocabulary_does_not_lower_the_cost() -> None:
    texts = list(dict.fromkeys(load_splits(str(QUICKSTART)).train["context"]))
    train, held_out = texts[:100], texts[100:]
    bits, nats_without_spelling = [], []
    for size in (30_000, 3):
        model = Bigram.fit(train, size)
        bits.append(word_model_bits(model, held_out))
        ids = [model.vocabulary.encode_texts([tokenize(text)]) for text in held_out]
        nats_without_spelling.append(-sum(model.logprobs(text_ids)[:-1].sum() for text_ids in ids))
    assert nats_without_spelling[1] < nats_without_spelling[0]  # unknown words are cheap until their spelling is charged
    assert bits[1] > bits[0]
