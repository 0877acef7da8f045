"""Serve transformers' `generate` with LitServe, batched as in LitServe's documentation.

Runs in .venv-peers: `python litserve_server.py MODEL PORT`.
"""

import sys
from typing import Any

import litserve
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Completions(litserve.LitAPI):
    """An API that runs one `generate` for up to 32 prompts, padded on the left, until the longest request has its tokens."""

    def setup(self, device: str) -> None:
        """Load the model in bf16."""
        self.tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
        self.model.to(torch.device(device))

    def predict(self, requests: list[dict[str, Any]]) -> list[str]:
        """Return the text of each request of a batch; greedy and sampled requests run in separate calls of `generate`."""
        texts: dict[int, str] = {}
        for greedy in (True, False):
            indices = [index for index, request in enumerate(requests) if (request["sampling"] is None) == greedy]
            if indices:
                texts |= dict(zip(indices, self._generate([requests[index] for index in indices]), strict=True))
        return [texts[index] for index in range(len(requests))]

    def _generate(self, requests: list[dict[str, Any]]) -> list[str]:
        sampling = requests[0]["sampling"]  # the same in all requests of a load
        sampling = {"do_sample": True, **sampling} if sampling else {"do_sample": False}
        inputs = self.tokenizer([request["prompt"] for request in requests], return_tensors="pt", padding=True)
        lengths = [request["length"] for request in requests]
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=max(lengths), pad_token_id=self.tokenizer.eos_token_id, **sampling)
        start = inputs["input_ids"].shape[1]
        return [str(self.tokenizer.decode(row[start : start + length])) for row, length in zip(output, lengths, strict=True)]


if __name__ == "__main__":
    api = Completions(max_batch_size=32, batch_timeout=0.05)
    litserve.LitServer(api, accelerator="cpu", timeout=False).run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
