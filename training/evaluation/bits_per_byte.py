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
CONTEXTS = 100
"""Held-out contexts that a language model is scored on, …"""


def excerpts(contexts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[str]:
    """… and as much of each as `max_length` of an LLM's tokens hold, a document's start among them: texts that every model reads whole."""
    cut = []
    for text in contexts[:CONTEXTS]:
        ends = [end for _, end in tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]]
        # Between words, where the beginning has the tokens that it has in the whole.
        cut.append(text if len(ends) < max_length else text[: ends[max_length - 2]].rsplit(" ", 1)[0])
    return cut


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], autocast: bool) -> float:
    """Of `texts`, each behind a document's start; where the tokenizer knows of none, the first token's bits are left out; a
    word model always pays for its first word.
    """
    device = next(model.parameters()).device
    start = document_start(tokenizer)
    rows = sorted((tokenizer(start + text)["input_ids"] for text in texts), key=len)
    was_training = model.training
    model.eval()
    bits = 0.0
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        ids = torch.zeros(len(part), len(part[-1]), dtype=torch.long)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        for row, tokens in enumerate(part):
            ids[row, : len(tokens)], counted[row, 1 : len(tokens)] = torch.tensor(tokens), True
        ids, counted = ids.to(device), counted.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, use_cache=False).logits
        bits += float(cross_entropy(logits[:, :-1][counted[:, 1:]].float(), ids[counted], reduction="sum")) / math.log(2)
    model.train(was_training)
    return bits / _bytes(texts)


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


def word_model_metrics(model: WordModel, texts: Sequence[str]) -> dict[str, Any]:
    """Bits per byte and perplexity per word of a word model."""
    return scores(word_model_bits(model, texts) / _bytes(texts), texts)


def scores(bits_per_byte: float, texts: Sequence[str]) -> dict[str, Any]:
    """Bits for a byte of `texts`, and the same as perplexity for one of their words (`models/words.py`), whichever model spent them."""
    words = sum(len(tokenize(text)) for text in texts)
    return {"bits_per_byte": bits_per_byte, "word_perplexity": 2 ** (bits_per_byte * _bytes(texts) / words)}


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)
