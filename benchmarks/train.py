"""Training throughput against (a) TRL's SFTTrainer and (b) the plain loop of tutorials: `make bench-train`.

Same base model, same rows, same machine, same run; each contestant in a process of its own, in turn, for the same seconds after its
first step. Rows/s times the real tokens of a row, without padding, is what they learn from; trigen computes fewer, for a context's
questions share it, and is timed with contexts repeated too. Beside that stand the share of the bf16 matrix rate, measured between the
contestants, and the peak memory. Without --base-model it makes GPT-2 small's architecture with random weights; without --dataset it
takes data/quickstart.

    (a) TRL: bf16, fused AdamW, completion-only loss, batches of 16 grouped by length, no gradient checkpointing
    (b) plain: fp32, batches of 8 padded to 384 tokens with a mask, labels on all tokens, AdamW as it comes, dropout as the model has it
"""

import argparse
import functools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contestants import run_contestant
from benchmarks.random_base import save_random_gpt2
from benchmarks.trl_squad import TRL_BATCH, TRL_LENGTH, prompts_and_completions, sft_config
from training.interruption import Interruption

PROJECT = Path(__file__).resolve().parent.parent
ROWS, PLAIN_BATCH = 3000, 8


class Meter:
    """Counts rows, real tokens and seconds from the end of the first step on, which compiles and allocates."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.tokens, self.rows, self.steps, self.began = seconds, 0, 0, -1, 0.0

    def step(self, rows: int, tokens: int) -> bool:
        """Note a step that is over; returns whether the time is."""
        self.steps += 1
        if self.steps == 0:
            self.began = time.perf_counter()
            return False
        self.rows, self.tokens = self.rows + rows, self.tokens + tokens
        return time.perf_counter() - self.began > self.seconds

    def result(self) -> dict[str, float]:
        """Rates over the steps."""
        took = time.perf_counter() - self.began
        return {"tokens_per_second": self.tokens / took, "rows_per_second": self.rows / took, "steps": self.steps}


def matrix_rate(size: int = 2048, seconds: float = 3.0) -> float:
    """FLOP/s of a bf16 matrix product of this machine: the median of products over `seconds`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / sorted(times)[len(times) // 2]


def flops_per_token(base_model: str, length: float) -> float:
    """Of training on a token of a row of `length` tokens: 6 for each weight of a block's matrices, and attention's two products, causal
    (Chowdhery et al., PaLM, arXiv:2204.02311, appendix B, with half of its attention). Head and embedding are not counted, so that no
    contestant is credited for logits that nobody needs.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model)
    inside = [m for name, m in model.base_model.named_parameters() if m.dim() >= 2 and not any(e in name for e in ("wte", "wpe", "embed"))]
    config = model.config
    return float(6 * sum(m.numel() for m in inside) + 6 * config.num_hidden_layers * config.hidden_size * length)


def rows_of(dataset: str) -> Any:
    """What every contestant learns from: answerable training questions by whole contexts, in an order drawn by seed 0."""
    from training.data.selection import answerable, split_contexts
    from training.data.squad import load_splits

    return split_contexts(answerable(load_splits(dataset).train), ROWS, 0)[0].shuffle(seed=0)


def random_gpt2() -> str:
    """GPT-2 small's architecture (124 million parameters) with random weights: for speed, never for quality."""
    target = PROJECT / "runs/base-models/random-gpt2"
    if not (target / "model.safetensors").exists():
        save_random_gpt2(target, words=8000)
    return str(target)


def trigen(base_model: str, dataset: str, seconds: float, *, share: bool = False) -> dict[str, float]:
    """`training.fine_tuning.loop` as train.py runs it, with every row by itself; with `share`, a context's questions share it."""
    from training.config import Config
    from training.data.encoding import EncodingConfig, encode
    from training.device import build_accelerator, silence_libraries
    from training.fine_tuning.base_model import load_base
    from training.fine_tuning.loop import FineTuner
    from training.fine_tuning.metrics_log import MetricsLog

    silence_libraries(True)
    model, tokenizer = load_base(base_model, TRL_LENGTH)
    sequences = encode(rows_of(dataset), tokenizer, EncodingConfig(share_context=share, max_length=TRL_LENGTH))
    config = Config(base_model=base_model, epochs=1000, validations=0, batch_tokens=TRL_BATCH * 160)  # as many as a step of TRL has
    with tempfile.TemporaryDirectory() as scratch:
        records = MetricsLog(Path(scratch))
        tuning = FineTuner(model, sequences, config, seconds, build_accelerator(), records, Path(scratch), validate=lambda _: {})
        done = tuning.run(Interruption())
        steps = records.read("train")[1:]
    took = sum(step["seconds"] for step in steps)
    tokens = sum(step["seconds"] * step["tokens_per_second"] for step in steps)
    return {"tokens_per_second": tokens / took, "rows_per_second": done.rows * tokens / done.tokens / took, "steps": len(steps)}


def trl(base_model: str, dataset: str, seconds: float) -> dict[str, float]:
    """TRL's SFTTrainer."""
    import warnings

    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    warnings.simplefilter("ignore")
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    meter = Meter(seconds)

    class Metered(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop = meter.step(*seen.pop())

    class Counting(SFTTrainer):  # untyped
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            seen.append((len(inputs["input_ids"]), int(inputs["attention_mask"].sum())))
            return super().training_step(model, inputs, *rest, **named)

    seen: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Counting(
            model=base_model,
            args=sft_config(scratch, max_steps=10_000),
            train_dataset=prompts_and_completions(rows_of(dataset)),
            processing_class=tokenizer,
            callbacks=[Metered()],
        )
        trainer.train()
    return meter.result()


def plain(base_model: str, dataset: str, seconds: float) -> dict[str, float]:
    """The loop of most tutorials."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.data.encoding import EncodingConfig, encode

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).train()
    model.to(torch.device(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows = encode(rows_of(dataset), tokenizer, EncodingConfig(share_context=False, max_length=TRL_LENGTH))["input_ids"]
    meter, at, over = Meter(seconds), 0, False
    while not over:
        part = [rows[(at + row) % len(rows)] for row in range(PLAIN_BATCH)]
        at += PLAIN_BATCH
        ids = torch.zeros(PLAIN_BATCH, TRL_LENGTH, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(part):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels = ids.masked_fill(mask == 0, -100)
        model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        over = meter.step(PLAIN_BATCH, int(mask.sum()))
    return meter.result()


CONTESTANTS: dict[str, Callable[[str, str, float], dict[str, float]]] = {
    "trigen": functools.partial(trigen, share=True),
    "trigen, contexts repeated": trigen,
    "TRL SFTTrainer": trl,
    "plain loop": plain,
}


def compare(base_model: str, dataset: str, seconds: float) -> None:
    """Run every contestant in a process of its own, and print a line of a table for each."""
    rates, results = [matrix_rate()], {}
    given = ("--base-model", base_model, "--dataset", dataset, "--seconds", str(seconds))
    for name in CONTESTANTS:
        print(f"{name}: {seconds:.0f} s after its first step …", file=sys.stderr, flush=True)
        results[name] = run_contestant("benchmarks.train", name, *given)
        rates.append(matrix_rate())
    rate, apart = statistics.median(rates), results["trigen, contexts repeated"]
    row = apart["tokens_per_second"] / apart["rows_per_second"]
    print(f"bf16 matrix rate: {rate / 1e9:,.0f} GFLOP/s (median of {len(rates)}: {', '.join(f'{one / 1e9:.0f}' for one in rates)})")
    print(f"a row has {row:.0f} tokens without padding\n")
    print(
        "| | rows/s | their real tokens/s | tokens/s computed | of the matrix rate | peak GB | trigen is faster by | …, contexts repeated |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        share = result["tokens_per_second"] * result["flops_per_token"] / rate
        rows = result["rows_per_second"]
        print(
            f"| {name} | {rows:.2f} | {rows * row:,.0f} | {result['tokens_per_second']:,.0f} | {share:.1%} | {result['peak_gb']:.1f} | "
            f"{results['trigen']['rows_per_second'] / rows:.2f} | {apart['rows_per_second'] / rows:.2f} |"
        )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a Hub id or directory; GPT-2 small with random weights by default")
    parser.add_argument("--dataset", default="data/quickstart")
    parser.add_argument("--seconds", type=float, default=100)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        result = CONTESTANTS[arguments.contestant](arguments.base_model, arguments.dataset, arguments.seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        length = result["tokens_per_second"] / result["rows_per_second"]
        print(json.dumps(result | {"peak_gb": peak, "flops_per_token": flops_per_token(arguments.base_model, length)}))
    else:
        compare(arguments.base_model or random_gpt2(), arguments.dataset, arguments.seconds)


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # for every contestant
    main()
