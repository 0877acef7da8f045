"""Train the bigram and the LSTM, fine-tune the LLM, and register all three in the BentoML model store.

    python train.py                                   GPT-2 on SQuAD, both from the Hugging Face Hub; needs a GPU
    python train.py --preset quickstart               a few minutes on two CPU cores, without the Hub
    python train.py --base-model DIR --dataset DIR    any small causal LM, any data in SQuAD's schema

`--help` explains each flag. The script reads from top to bottom: configure, load the data, train each model, evaluate and compare,
register.
"""

import os
import sys
from typing import Any

from training.config import Config, parse
from training.errors import TrainingError
from training.hub import SMOLLM2_DIRECTORY, describe_sources, fetch_smollm2, resolve_sources
from training.interruption import Interrupted, Interruption


def main(requested: Config, interruption: Interruption) -> None:
    """Train, compare and register the models of `requested.only`."""
    # Configure. The heavy imports follow: `--help` does not need them, and they read the environment when they are imported.
    config = resolve_sources(requested)  # may set HF_HUB_OFFLINE, which the Hub's client reads
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch then puts large tensors in huge pages: a few percent faster on a CPU
    from accelerate.utils import broadcast_object_list

    from models.store.registration import Artifact, register
    from training.comparison.measurement import compare
    from training.comparison.report import write_comparison_report
    from training.data.selection import contexts, describe_unanswered
    from training.data.squad import load_splits
    from training.device import build_accelerator, choose_device, silence_libraries
    from training.fine_tuning.base_model import load_base
    from training.fine_tuning.eval_only import evaluate_only
    from training.fine_tuning.pipeline import fine_tune
    from training.run import FINE_TUNING, display_name, prepare_run, print_metrics, print_settings, run_metadata, write_metrics
    from training.word_models.fitting import RNN_SHARE, fit_bigram, fit_rnn

    accelerator = build_accelerator(config.trackers, config.output_dir / FINE_TUNING / "tensorboard")
    silence_libraries(accelerator.is_main_process)
    print(describe_sources(requested, config), flush=True)

    # Load the base model first, so that a run without one ends at once, then the data.
    with_llm = "llm" in config.only
    if with_llm and config.base_model == str(SMOLLM2_DIRECTORY):
        with accelerator.local_main_process_first():
            fetch_smollm2()
    if with_llm and not config.eval_only:
        base = load_base(config.base_model, config.max_length, config.dropout)
    with accelerator.local_main_process_first():  # the others then read the cache that it has written
        splits = load_splits(config.dataset)
    if config.eval_only:
        if accelerator.is_main_process:
            evaluate_only(splits.test, config)
        return
    train_rows, test_rows, unanswered = len(splits.train), len(splits.test), describe_unanswered(splits)
    print(f"{train_rows:,} training and {test_rows:,} test questions{unanswered} · {choose_device().description}", flush=True)
    print_settings(config)

    # Train the word models. They are small, so the main process fits them alone: the LSTM at the end if others would wait for it.
    seconds = None if config.max_minutes is None else 60 * config.max_minutes
    rnn_seconds = RNN_SHARE * seconds if seconds is not None and with_llm else seconds
    metrics: dict[str, dict[str, Any]] = {}
    if accelerator.is_main_process:
        metrics = prepare_run(config, splits)  # of the models that a resumed run has finished
        train_text, test_text = contexts(splits.train), contexts(splits.test)
        if "bigram" in config.only and "bigram" not in metrics:
            metrics["bigram"] = fit_bigram(train_text, test_text, config.output_dir / "bigram")
            write_metrics(metrics, config.output_dir)
        if "rnn" in config.only and "rnn" not in metrics and accelerator.num_processes == 1:
            metrics["rnn"] = fit_rnn(train_text, test_text, config, rnn_seconds, interruption)
            write_metrics(metrics, config.output_dir)

    # Fine-tune the LLM, in all processes. The main process first tells the others which models are finished.
    metrics = broadcast_object_list([metrics])[0]
    if with_llm and "llm" not in metrics:
        llm_seconds = seconds
        if seconds is not None and "rnn" in config.only:
            llm_seconds = seconds - (metrics["rnn"]["seconds"] if "rnn" in metrics else RNN_SHARE * seconds)
        metrics["llm"] = fine_tune(base, splits, config.output_dir / "llm", llm_seconds, config, accelerator, interruption)
    if not accelerator.is_main_process:
        return
    if "rnn" in config.only and "rnn" not in metrics:  # there were several processes
        write_metrics(metrics, config.output_dir)
        metrics["rnn"] = fit_rnn(train_text, test_text, config, rnn_seconds, interruption)

    # Evaluate and compare.
    print_metrics(metrics)
    write_metrics(metrics, config.output_dir)
    comparison = compare(config, splits, metrics)
    print("comparison:", write_comparison_report(config.output_dir, comparison, metrics))

    # Register.
    if config.register:
        shared_metadata = run_metadata(config, splits) | {"comparison": comparison}
        artifacts = {}
        for name, model_metrics in metrics.items():
            metadata = shared_metadata | {"metrics": model_metrics}
            if name == "llm":
                metadata["base_model"] = display_name(config.base_model)
            artifacts[name] = Artifact(config.output_dir / name, metadata)
        try:
            tags = register(artifacts)
        except OSError as error:  # such as a full disk
            raise TrainingError(f"nothing was registered: {error}; --resume keeps finished work") from error
        print("registered:", ", ".join(tags))
    else:
        print(f"not registered: {', '.join(metrics)} in {config.output_dir}")


if __name__ == "__main__":
    interruption = Interruption()
    interruption.install()
    try:
        main(parse(), interruption)
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as interrupted:
        hint = "the checkpoint is written, --resume continues from it" if interrupted.saved else "--resume keeps finished work"
        print(f"train.py: interrupted, nothing was registered; {hint}", file=sys.stderr)
        sys.exit(interrupted.exit_status)
