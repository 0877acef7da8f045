"""Whether a fine-tuned model is still a language model: bits per byte of held-out text.

Unlike perplexity it does not depend on the tokenizer, so that any two base models compare: the negative log-likelihood of all tokens in
bits, over the bytes of the text in UTF-8 (The Pile: Gao et al., arXiv:2101.00027, section 3.1).
"""

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.llm import document_start

BATCH = 8


@torch.no_grad()
def bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, autocast: bool
) -> float:
    """Of the first `max_length` tokens of each text behind a document's start; where the tokenizer knows of none, the first token's bits
    are left out, for any model alike.
    """
    device = next(model.parameters()).device
    start = document_start(tokenizer)
    rows = sorted((tokenizer(start + text)["input_ids"][:max_length] for text in texts), key=len)
    was_training = model.training
    model.eval()
    bits = size = 0.0
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
    return bits / size
