"""Compare the training throughput with (a) TRL's SFTTrainer and (b) the plain loop of tutorials: `make bench-train`.

    (a) TRL: bf16, fused AdamW, completion-only loss, batches of 16 grouped by length, no gradient checkpointing; with the model as
        Trigen prepares it (no dropout, GPT-2's GELU in one kernel), and as it comes from the Hub, to show what these two are worth
    (b) plain: fp32, batches of 8 padded to 384 tokens with a mask, labels on all tokens, default AdamW, the model's own dropout

All contestants train the same base model on the same rows. They run one after the other, each in a separate process, for the same time
after its first step, on the same clock: the wall clock, so that whatever a contestant does between its steps counts. Rows/s × the tokens
of a row, without padding, is the rate of "real" tokens. Trigen computes fewer, because the questions about a context share it; it is also
timed with contexts repeated. The table also shows what share of the machine's bf16 matrix rate (measured between the contestants) each
one reaches, and its peak memory.
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
    """Count rows, real tokens and seconds, starting after the first step, which compiles and allocates."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.started, self.elapsed = seconds, -1, 0.0, 0.0
        self.rows: Any = 0
        self.tokens: Any = 0

    def step(self, rows: Any, tokens: Any) -> bool:
        """Count a step; return whether the time is over. A GPU may still compute it, and count its rows and tokens."""
        self.steps += 1
        if self.steps == 0:
            float(rows + tokens)  # waits for the GPU
            self.started = time.perf_counter()
            return False
        self.rows, self.tokens = self.rows + rows, self.tokens + tokens
        if time.perf_counter() - self.started > self.seconds:
            self.rows, self.tokens = float(self.rows), float(self.tokens)  # likewise
        self.elapsed = time.perf_counter() - self.started
        return self.elapsed > self.seconds

    def result(self) -> dict[str, float]:
        """Return the rates between the ends of the first and the last step."""
        return {"tokens_per_second": self.tokens / self.elapsed, "rows_per_second": self.rows / self.elapsed, "steps": self.steps}


def matrix_rate(size: int = 2048, seconds: float = 3.0) -> float:
    """Return this machine's FLOP/s in a bf16 matrix product: the median over `seconds`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / sorted(times)[len(times) // 2]


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has had, in GB: of the machine, and of the GPU if there is one."""
    import torch

    machine = {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
    return machine | ({"gpu_gb": torch.cuda.max_memory_reserved() / 1e9} if torch.cuda.is_available() else {})


def flops_per_token(base_model: str, length: float) -> float:
    """Return the FLOPs of training on one token of a row of `length` tokens.

    They are 6 for each weight of a block's matrices, plus 6 × layers × width × length for attention's two products: half of the term in
    Chowdhery et al. (PaLM, arXiv:2204.02311, appendix B), because causal attention needs only half of them. Head and embedding are not
    counted, so that no contestant is credited for unused logits.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_model)
    parameters = model.base_model.named_parameters()
    matrices = [matrix for name, matrix in parameters if matrix.dim() >= 2 and not any(e in name for e in ("wte", "wpe", "embed"))]
    config = model.config
    return float(6 * sum(matrix.numel() for matrix in matrices) + 6 * config.num_hidden_layers * config.hidden_size * length)


def training_rows(dataset: str) -> Any:
    """Return the rows that every contestant trains on: answerable questions of whole contexts, shuffled with seed 0."""
    from training.data.selection import answerable, split_contexts
    from training.data.squad import load_splits

    return split_contexts(answerable(load_splits(dataset).train), ROWS, 0)[0].shuffle(seed=0)


def random_gpt2(positions: int = 1024) -> str:
    """Return the directory of a GPT-2 small (124 million parameters) with random weights; create it first if necessary."""
    target = PROJECT / f"runs/base-models/random-gpt2-{positions}"
    if not (target / "model.safetensors").exists():
        save_random_gpt2(target, words=8000, n_positions=positions)
    return str(target)


def train_trigen(
    base_model: str, dataset: str, seconds: float, *, share_context: bool, repeats: int = 1, **settings: Any
) -> dict[str, float]:
    """Run `training.fine_tuning.loop` as train.py does, with these settings of `Config`.

    Without `share_context` every row repeats its context. An epoch has each sequence `repeats` times.
    """
    from datasets import concatenate_datasets

    from training.config import Config
    from training.data.encoding import EncodingConfig, encode
    from training.device import build_accelerator, silence_libraries
    from training.fine_tuning.base_model import load_base
    from training.fine_tuning.loop import FineTuner
    from training.fine_tuning.metrics_log import MetricsLog

    class MeteredLog(MetricsLog):
        """Counts each step when it is logged, which is the last thing that a step does."""

        def log(self, kind: str, step: int, **values: Any) -> None:
            super().log(kind, step, **values)
            rows, tokens = tuner.progress.rows, tuner.progress.tokens
            meter.step(rows - counted[0], tokens - counted[1])
            counted[:] = rows, tokens

    silence_libraries(True)
    meter, counted = Meter(seconds), [0, 0]  # the rows and tokens of the steps so far
    model, tokenizer = load_base(base_model, TRL_LENGTH)
    sequences = encode(training_rows(dataset), tokenizer, EncodingConfig(share_context=share_context, max_length=TRL_LENGTH))
    sequences = concatenate_datasets([sequences] * repeats)
    steps = {"batch_tokens": TRL_BATCH * 160} | settings  # about the tokens of a step of TRL
    config = Config(base_model=base_model, epochs=1000 // repeats, validations=0, **steps)
    with tempfile.TemporaryDirectory() as scratch:
        accelerator = build_accelerator()
        log = MeteredLog(Path(scratch), accelerator)
        tuner = FineTuner(model, sequences, config, seconds, accelerator, log, Path(scratch), validate=lambda _: {})
        tuner.run(Interruption())
    return meter.result()


def train_trl(
    base_model: str, dataset: str, seconds: float, *, prepared: bool, attention: str | None = None, **settings: Any
) -> dict[str, float]:
    """Run TRL's SFTTrainer, with the model as Trigen prepares it or as it comes, and these settings on top of `sft_config`'s."""
    import warnings

    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    from training.fine_tuning.base_model import load_base

    warnings.simplefilter("ignore")
    if prepared:
        model, tokenizer = load_base(base_model, TRL_LENGTH)
    else:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base_model), AutoTokenizer.from_pretrained(base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if attention:
        model.set_attn_implementation(attention)
    meter = Meter(seconds)

    class Metered(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop = meter.step(*counts.pop())

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if "attention_mask" in inputs:
                counts.append((len(inputs["input_ids"]), inputs["attention_mask"].sum()))
            else:  # packed: each row begins at position 0
                counts.append(((inputs["position_ids"] == 0).sum(), inputs["input_ids"].numel()))
            return super().training_step(model, inputs, *args, **kwargs)

    counts: list[tuple[Any, Any]] = []  # rows and tokens of the current step
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Counting(
            model=model,
            args=sft_config(scratch, max_steps=10_000, **settings),
            train_dataset=prompts_and_completions(training_rows(dataset)),
            processing_class=tokenizer,
            callbacks=[Metered()],
        )
        trainer.train()
    return meter.result()


def train_plain_loop(base_model: str, dataset: str, seconds: float) -> dict[str, float]:
    """Run the loop of most tutorials."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.data.encoding import EncodingConfig, encode

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32).train()
    model.to(torch.device(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows = encode(training_rows(dataset), tokenizer, EncodingConfig(share_context=False, max_length=TRL_LENGTH))["input_ids"]
    meter, start, finished = Meter(seconds), 0, False
    while not finished:
        batch = [rows[(start + row) % len(rows)] for row in range(PLAIN_BATCH)]
        start += PLAIN_BATCH
        ids = torch.zeros(PLAIN_BATCH, TRL_LENGTH, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        labels = ids.masked_fill(mask == 0, -100)
        model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        finished = meter.step(PLAIN_BATCH, int(mask.sum()))
    return meter.result()


CONTESTANTS: dict[str, Callable[[str, str, float], dict[str, float]]] = {
    "trigen": functools.partial(train_trigen, share_context=True),
    "trigen, contexts repeated": functools.partial(train_trigen, share_context=False),
    "TRL SFTTrainer": functools.partial(train_trl, prepared=True),
    "TRL SFTTrainer, dropout and GELU as on the Hub": functools.partial(train_trl, prepared=False),
    "plain loop": train_plain_loop,
}


def compare(base_model: str, dataset: str, seconds: float) -> None:
    """Run every contestant in a separate process and print a table with one row for each."""
    rates, results = [matrix_rate()], {}
    flags = ("--base-model", base_model, "--dataset", dataset, "--seconds", str(seconds))
    for name in CONTESTANTS:
        print(f"running {name} for {seconds:.0f} s after its first step", file=sys.stderr, flush=True)
        results[name] = run_contestant("benchmarks.train", name, *flags)
        rates.append(matrix_rate())
    median_rate, repeated = statistics.median(rates), results["trigen, contexts repeated"]
    tokens_per_row = repeated["tokens_per_second"] / repeated["rows_per_second"]
    all_rates = ", ".join(f"{rate / 1e9:.0f}" for rate in rates)
    print(f"bf16 matrix rate: {median_rate / 1e9:,.0f} GFLOP/s (median of {len(rates)}: {all_rates})")
    print(f"a row has {tokens_per_row:.0f} tokens without padding\n")
    print(
        "| | rows/s | real tokens/s | computed tokens/s | of the matrix rate | peak GB | trigen is faster by | with contexts repeated, by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, result in results.items():
        rows, tokens = result["rows_per_second"], result["tokens_per_second"]
        share = tokens * result["flops_per_token"] / median_rate
        print(
            f"| {name} | {rows:.2f} | {rows * tokens_per_row:,.0f} | {tokens:,.0f} | {share:.1%} | {result['peak_gb']:.1f} | "
            f"{results['trigen']['rows_per_second'] / rows:.2f} | {repeated['rows_per_second'] / rows:.2f} |"
        )


def main() -> None:
    """Run the comparison, or one contestant of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a directory or Hub id (default: GPT-2 small with random weights)")
    parser.add_argument("--dataset", default="data/quickstart", help="a directory or Hub id in SQuAD's schema (default: data/quickstart)")
    parser.add_argument("--seconds", type=float, default=100, help="the duration of each contestant after its first step (default: 100)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        result = CONTESTANTS[arguments.contestant](arguments.base_model, arguments.dataset, arguments.seconds)
        length = result["tokens_per_second"] / result["rows_per_second"]
        print(json.dumps(result | peak_memory() | {"flops_per_token": flops_per_token(arguments.base_model, length)}))
    else:
        compare(arguments.base_model or random_gpt2(), arguments.dataset, arguments.seconds)


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch allocates in huge pages, for every contestant
    main()
