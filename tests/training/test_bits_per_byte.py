import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.bits_per_byte import bits_per_byte

TEXTS = ["The lighthouse was built in 1889.", "Of what was it made?", "Überall Granit, said the keeper of the light, who knew."]


def test_it_is_the_negative_log_likelihood_in_bits_over_the_bytes(tiny_base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    bits = 0.0
    for text in TEXTS:
        ids = tokenizer("<|endoftext|>" + text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            bits += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
    measured = bits_per_byte(model, tokenizer, TEXTS, 100, autocast=False)
    assert measured == pytest.approx(bits / sum(len(text.encode()) for text in TEXTS), rel=1e-4)


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary(tiny_base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_base), AutoTokenizer.from_pretrained(tiny_base)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    tokens = len(tokenizer(TEXTS[0])["input_ids"])
    expected = tokens * math.log2(1000) / len(TEXTS[0])
    assert bits_per_byte(model, tokenizer, TEXTS[:1], 100, autocast=False) == pytest.approx(expected, rel=1e-4)
