"""Bits per byte of held-out text: what any two language models compare by, whatever their tokens or words are.

The negative log-likelihood of all tokens in bits, over the bytes of the text in UTF-8 (The Pile: Gao et al., arXiv:2101.00027, section
3.1).
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.llm import document_start
from models.spelling import Spelling
from models.words import UNKNOWN, Vocabulary, tokenize

BATCH = 8


def bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, autocast: bool
) -> float:
    """Of the first `max_length` tokens of each text behind a document's start; where the tokenizer knows of none, the first token's bits
    are left out, for any model alike.
    """
    bits, size = bits_and_bytes(model, tokenizer, texts, max_length, autocast)
    return bits / size


def longest(model: PreTrainedModel) -> int:
    """The tokens that a model can see at once."""
    return int(getattr(model.config, "max_position_embeddings", 1024))


@torch.no_grad()
def bits_and_bytes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, autocast: bool
) -> tuple[float, int]:
    """What `bits_per_byte` divides."""
    device = next(model.parameters()).device
    start = document_start(tokenizer)
    rows = sorted((tokenizer(start + text)["input_ids"][:max_length] for text in texts), key=len)
    was_training = model.training
    model.eval()
    bits, size = 0.0, 0
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        ids = torch.zeros(len(part), len(part[-1]), dtype=torch.long)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        for row, tokens in enumerate(part):
            ids[row, : len(tokens)], counted[row, 1 : len(tokens)] = torch.tensor(tokens), True
            size += len(str(tokenizer.decode(tokens, skip_special_tokens=True)).encode())
        ids, counted = ids.to(device), counted.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, use_cache=False).logits
        bits += float(cross_entropy(logits[:, :-1][counted[:, 1:]].float(), ids[counted], reduction="sum")) / math.log(2)
    model.train(was_training)
    return bits, size


class WordModel(Protocol):
    """What the bigram and the LSTM have in common here."""

    vocabulary: Vocabulary
    spelling: Spelling

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log P of each id after those before it, but for the first."""
        ...


def word_model_bits(model: WordModel, texts: Sequence[str]) -> float:
    """The cost of all `texts`, each from its beginning, in bits: of its words, and of the spelling of those outside the vocabulary."""
    nats, unknown = 0.0, list[str]()
    for text in tqdm(texts, desc="predicting held-out text", leave=False, delay=2):
        tokens = tokenize(text)
        ids = model.vocabulary.stream([tokens])
        nats -= float(model.logprobs(ids)[:-1].sum())
        unknown += [token for token, id in zip(tokens, ids[1:], strict=False) if id == UNKNOWN]
    return nats / math.log(2) + float(model.spelling.bits(unknown).sum())


def word_model_scores(model: WordModel, texts: Sequence[str]) -> dict[str, Any]:
    """Bits per byte and perplexity per word of a word model."""
    return scores(word_model_bits(model, texts), texts)


def scores(bits: float, texts: Sequence[str]) -> dict[str, Any]:
    """What `bits` are for a byte of `texts`, and as perplexity for one of their words (`models/words.py`), whichever model spent them."""
    words = sum(len(tokenize(text)) for text in texts)
    return {"bits_per_byte": bits / sum(len(text.encode()) for text in texts), "word_perplexity": 2 ** (bits / words)}
