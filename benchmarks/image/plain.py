"""BentoML's plain recipe for a language model: torch and transformers, one request at a time, no settings."""

from typing import Any

import bentoml
from bentoml.models import BentoModel


@bentoml.service
class Plain:
    """Continues text with the LLM of the model store."""

    stored = BentoModel("trigen-llm:latest")

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # the machine that builds the Bento need not have it

        self.tokenizer = AutoTokenizer.from_pretrained(self.stored.path)
        self.model: Any = AutoModelForCausalLM.from_pretrained(self.stored.path)

    @bentoml.api(route="/generate_with_llm")
    def generate(self, start_word: str, length: int) -> str:
        """Continue a prompt by `length` tokens."""
        inputs = self.tokenizer(start_word, return_tensors="pt")
        ids = self.model.generate(**inputs, max_new_tokens=length, min_new_tokens=length, do_sample=True)
        return str(self.tokenizer.decode(ids[0]))
