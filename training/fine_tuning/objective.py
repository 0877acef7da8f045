"""The objective of the fine-tuning: the weighted cross-entropy of the supervised tokens."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from training.data.batching import Batch
from training.fine_tuning.attention import MATMUL, evaluating, model_inputs

PROBE_TOKENS = 8


class SupervisedLoss(torch.nn.Module):
    """A causal LM whose output is its weighted cross-entropy, summed over the supervised tokens.

    Those are a few percent of SQuAD's tokens, and the head is a third of GPT-2's work, so only their hidden states reach the head, unless
    the model does more with them: Granite and Cohere scale their logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.head_is_linear = head_is_linear(model)

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of weight × nats over the batch's supervised tokens, a float32 scalar."""
        inputs = model_inputs(self.model, batch)
        if self.head_is_linear:
            hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[batch.predictors])
        else:
            logits = self.model(**inputs, use_cache=False).logits.flatten(0, 1)[batch.predictors]
        return (cross_entropy(logits.float(), batch.targets, reduction="none") * batch.weights).sum()


def head_is_linear(model: PreTrainedModel) -> bool:
    """Return whether the model's logits are its output embeddings times the hidden states, and nothing else, as a small input shows."""
    ids = torch.arange(PROBE_TOKENS, device=model.device)[None] % model.config.vocab_size
    with evaluating(model), torch.autocast(model.device.type, torch.bfloat16, enabled=model.config._attn_implementation == MATMUL):
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        direct = model.get_output_embeddings()(hidden)
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.allclose(direct.float(), logits.float(), rtol=0.01, atol=0.01)
