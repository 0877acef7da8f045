"""Bits per byte of held-out text: a metric that compares any two language models, whatever their tokens or words are.

It is the negative log-likelihood of all tokens in bits, divided by the number of UTF-8 bytes of the text (The Pile: Gao et
al., arXiv:2101.00027, section 3.1).
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.answering.prompts import document_start
from models.spelling import Spelling
from models.words import UNKNOWN, Vocabulary, tokenize
from training.progress import progress_bar

BATCH = 8
CONTEXTS = 100
"""The number of held-out contexts on which language models are measured."""


def excerpts(contexts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[str]:
    """Return the first `CONTEXTS` texts, truncated so that an LLM can read each one whole.

    Each fits into `max_length` tokens together with a document-start token. All models are measured on the same excerpts.
    """
    texts = []
    for text in contexts[:CONTEXTS]:
        ends = [end for _, end in tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]]
        # Cut between words, so that the excerpt has the same tokens as the beginning of the whole text.
        texts.append(text if len(ends) < max_length else text[: ends[max_length - 2]].rsplit(" ", 1)[0])
    return texts


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], autocast: bool) -> float:
    """Return the bits per byte of `texts`, each read after a document-start token.

    If the tokenizer has none, the first token of each text is not charged. (Word models always pay for their first word.)
    """
    device = next(model.parameters()).device
    start = document_start(tokenizer)
    rows = sorted((tokenizer(start + text)["input_ids"] for text in texts), key=len)
    was_training = model.training
    model.eval()
    bits = 0.0
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        ids = torch.zeros(len(batch), len(batch[-1]), dtype=torch.long)
        charged = torch.zeros_like(ids, dtype=torch.bool)
        for i, tokens in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            charged[i, 1 : len(tokens)] = True
        ids, charged = ids.to(device), charged.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, use_cache=False).logits
        bits += float(cross_entropy(logits[:, :-1][charged[:, 1:]].float(), ids[charged], reduction="sum")) / math.log(2)
    model.train(was_training)
    return bits / _bytes(texts)


class WordModel(Protocol):
    """The part of the bigram's and the LSTM's interface that this module uses."""

    vocabulary: Vocabulary
    spelling: Spelling

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log P(ids[i + 1] | ids[: i + 1]) for each i, shape (len(ids) - 1,)."""
        ...


def word_model_bits(model: WordModel, texts: Sequence[str]) -> float:
    """Return the bits that `model` needs for all `texts`, each read from its beginning.

    A word outside the vocabulary also costs the bits of its spelling. The end of a text is not charged.
    """
    nats, unknown = 0.0, list[str]()
    for text in progress_bar(texts, desc="predicting held-out text", leave=False, delay=2):
        tokens = tokenize(text)
        ids = model.vocabulary.encode_texts([tokens])
        nats -= float(model.logprobs(ids)[:-1].sum())
        unknown += [token for token, id in zip(tokens, ids[1:], strict=False) if id == UNKNOWN]
    return nats / math.log(2) + float(model.spelling.bits(unknown).sum())


def word_model_metrics(model: WordModel, texts: Sequence[str]) -> dict[str, Any]:
    """Return the bits per byte and the perplexity per word of a word model."""
    return text_metrics(word_model_bits(model, texts) / _bytes(texts), texts)


def text_metrics(bits_per_byte: float, texts: Sequence[str]) -> dict[str, Any]:
    """Return a model's `bits_per_byte` on `texts`, and the same cost as perplexity per word.

    The words are those of `models/words.py` for every model, whatever its own tokens are.
    """
    words = sum(len(tokenize(text)) for text in texts)
    return {"bits_per_byte": bits_per_byte, "word_perplexity": 2 ** (bits_per_byte * _bytes(texts) / words)}


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)
