"""Train three generations of text generation and register them in the BentoML model store.

    python train.py                                   the mission: GPT-2 on SQuAD, from the Hub; wants a GPU
    python train.py --preset quickstart               minutes on two CPU cores, without the Hub
    python train.py --base-model DIR --dataset DIR    any small causal LM, any data in SQuAD's schema

`--help` explains each flag. Read from top to bottom: configure, load the data, train, evaluate, register.
"""

import os
import sys
from typing import Any

from training.config import Config, parse
from training.errors import TrainingError
from training.hub import SMOLLM2_DIRECTORY, describe, fetch_smollm2, resolve
from training.interruption import Interrupted, Interruption


def main(asked: Config, interruption: Interruption) -> None:
    """Train and register what `asked` says."""
    config = resolve(asked)

    # Imported now: `--help` answers at once, and these read the environment: the Hub's client what `resolve` set, torch this:
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large tensors in huge pages, a few percent of a step on a CPU
    from accelerate.utils import broadcast_object_list

    from models.store import Artifact, register
    from training.comparison.measurement import compare
    from training.comparison.report import write_comparison_report
    from training.data.selection import contexts, describe_unanswered
    from training.data.squad import load_splits
    from training.device import build_accelerator, choose_device, silence_libraries
    from training.fine_tuning.base_model import load_base
    from training.fine_tuning.pipeline import fine_tune
    from training.run import begin, display_name, echo, run_metadata, show, write_metrics
    from training.word_models.fitting import RNN_SHARE, fit_bigram, fit_rnn

    processes = build_accelerator()
    silence_libraries(processes.is_main_process)
    print(describe(asked, config), flush=True)
    if "llm" in config.only:  # before the data: without a base model nothing else is worth waiting for
        if config.base_model == str(SMOLLM2_DIRECTORY):
            with processes.main_process_first():
                fetch_smollm2()
        base = load_base(config.base_model, config.max_length, config.dropout)
    with processes.main_process_first():
        splits = load_splits(config.dataset)
    print(
        f"{len(splits.train):,} training and {len(splits.test):,} test questions{describe_unanswered(splits)} · {choose_device()[2]}",
        flush=True,
    )
    echo(config)

    seconds = None if config.max_minutes is None else 60 * config.max_minutes
    metrics: dict[str, dict[str, Any]] = {}
    if processes.is_main_process:  # the word models are small: one process fits them
        metrics |= begin(config, splits)
        train_text, test_text = contexts(splits.train), contexts(splits.test)
        if "bigram" in config.only and "bigram" not in metrics:
            metrics["bigram"] = fit_bigram(train_text, test_text, config.output_dir / "bigram")
            write_metrics(metrics, config.output_dir)
        if "rnn" in config.only and "rnn" not in metrics:
            share = seconds and seconds * (RNN_SHARE if "llm" in config.only else 1)
            metrics["rnn"] = fit_rnn(train_text, test_text, config.output_dir / "rnn", share, config.seed)
        write_metrics(metrics, config.output_dir)
    if "llm" in config.only and "llm" not in (metrics := broadcast_object_list([metrics])[0]):
        left = seconds and seconds - metrics.get("rnn", {"seconds": 0.0})["seconds"]
        metrics["llm"] = fine_tune(base, splits, config.output_dir / "llm", left, config, processes, interruption)
    if not processes.is_main_process:
        return

    show(metrics)
    write_metrics(metrics, config.output_dir)
    comparison = compare(config, splits, metrics)
    print("comparison:", write_comparison_report(config.output_dir, comparison, metrics))
    if config.register:
        run = run_metadata(config, splits) | {"comparison": comparison}
        own = {"llm": {"base_model": display_name(config.base_model)}}
        artifacts = {
            name: Artifact(config.output_dir / name, run | own.get(name, {}) | {"metrics": values}) for name, values in metrics.items()
        }
        print("registered:", ", ".join(register(artifacts)))


if __name__ == "__main__":
    interruption = Interruption()
    interruption.install()
    try:
        main(parse(), interruption)
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        rest = "the checkpoint is written, --resume goes on from it" if interrupted.saved else "--resume keeps what is finished"
        print(f"train.py: interrupted, nothing was registered; {rest}", file=sys.stderr)
        sys.exit(interrupted.exit_status)
