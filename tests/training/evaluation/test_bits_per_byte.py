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


def test_it_is_the_negative_log_likelihood_in_bits_over_the_bytes(tiny_base: Path) -> None:
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


def test_an_excerpt_is_what_a_training_sequence_holds(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    long = "Überall Granit: the lighthouse stands. " * 50
    cut, short = excerpts([long, TEXTS[0]], tokenizer, 40)
    assert long.startswith(cut)
    assert 30 < len(tokenizer(cut)["input_ids"]) <= 40
    assert short == TEXTS[0]
    assert len(excerpts([long] * (CONTEXTS + 1), tokenizer, 40)) == CONTEXTS


def test_a_word_models_bits_are_those_of_its_words_and_of_the_spelling_of_unknown_ones() -> None:
    model = Bigram.fit(["the cat sat.", "the dog sat.", "a cat ran.", "a dog sat."])
    text = "the zebra sat."
    ids = [BOUNDARY, *model.vocabulary.encode(tokenize(text))]
    words = -sum(math.log2(model.probabilities(before)[after]) for before, after in pairwise(ids))
    assert word_model_bits(model, [text, text]) == pytest.approx(2 * (words + float(model.spelling.bits([" zebra"])[0])))
    scores = word_model_metrics(model, [text])
    assert scores["bits_per_byte"] * len(text) == pytest.approx(math.log2(scores["word_perplexity"]) * 4)


def test_leaving_words_out_of_the_vocabulary_gains_nothing() -> None:
    texts = list(dict.fromkeys(load_splits(str(QUICKSTART)).train["context"]))
    train, held_out = texts[:100], texts[100:]
    bits, uncharged = [], []
    for size in (30_000, 3):
        model = Bigram.fit(train, size)
        bits.append(word_model_bits(model, held_out))
        ids = [model.vocabulary.stream([tokenize(text)]) for text in held_out]
        uncharged.append(-sum(model.logprobs(each)[:-1].sum() for each in ids))
    assert uncharged[1] < uncharged[0]  # the gift that the spelling takes back
    assert bits[1] > bits[0]
