"""The LLM from a base model and a data set to its artifact: encode, fine-tune, validate, export, evaluate, report."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from training.config import Config
from training.data.encoding import EncodingConfig, encode
from training.data.selection import contexts, draw, split_contexts
from training.data.squad import Splits
from training.errors import TrainingError
from training.evaluation.answers import evaluate, show_answers
from training.evaluation.bits_per_byte import bits_per_byte, excerpts
from training.export.artifact import open_artifact, save_artifact
from training.export.quantization import choose_weights
from training.fine_tuning.base_model import takes_segments
from training.fine_tuning.checkpoint import newest_checkpoint
from training.fine_tuning.loop import FineTuner, Progress
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.report import write_report
from training.interruption import Interruption
from training.run import FINE_TUNING, settings

SHOWN = 5
"""Fixed questions whose answers each validation shows."""
CONTEXT_FREE = 200
"""Test questions that are asked without their context too."""


def fine_tune(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    splits: Splits,
    directory: Path,
    seconds: float | None,
    config: Config,
    accelerator: Accelerator,
    interruption: Interruption,
) -> dict[str, Any]:
    """Fine-tune within `seconds` or the epochs, and put the best validation's weights (without validations, the last) in bf16 and as
    the CPU engine's IR into `directory`, with the report. Returns the scores on test questions, asked of what this machine would serve:
    int8 or fp16 weights on a CPU, bf16 on a GPU; the metrics name the engine. Processes other than the main one get an empty dict.
    """
    model, tokenizer = base
    work = config.output_dir / FINE_TUNING
    train, held_out = splits.train, splits.train.select([])
    if config.validations:
        held_out, train = split_contexts(train, min(config.validation_examples, len(train) // 10), config.seed)
        if not len(train):
            raise TrainingError("the training data has one context, which a validation would take: give --validations 0")
    if config.max_train_examples:
        train, _ = split_contexts(train, config.max_train_examples, config.seed)
    with accelerator.main_process_first():  # the others read its cache
        sequences = encode(train, tokenizer, encoding_config(config, takes_segments(model)))
    records = MetricsLog(work, accelerator.is_main_process)
    torch.manual_seed(config.seed + accelerator.process_index)
    test = draw(splits.test, config.eval_examples, config.seed)
    texts = excerpts(contexts(draw(splits.test, None, config.seed)), tokenizer, config.max_length)
    autocast = accelerator.mixed_precision == "bf16"
    if accelerator.is_main_process and not records.read("base"):
        model.to(accelerator.device)
        records.log("base", 0, bits_per_byte=bits_per_byte(model, tokenizer, texts, autocast))

    def validate(done: Progress) -> dict[str, Any]:
        candidate = work / "candidate"
        save_artifact(model, tokenizer, candidate, config.prompt)
        with open_artifact(candidate) as llm:
            scores = evaluate(llm, held_out) | {"answers": show_answers(llm, _first(held_out, SHOWN))}
        records.log("validation", done.steps, **scores)
        _print_validation(done, scores)
        if scores["f1"] > done.best.get("f1", -1.0):
            shutil.rmtree(work / "best", ignore_errors=True)
            candidate.rename(work / "best")
        return {"step": done.steps, "exact_match": scores["exact_match"], "f1": scores["f1"]}

    tuning = FineTuner(model, sequences, config, seconds, accelerator, records, work / "checkpoints", validate)
    if config.resume and (checkpoint := newest_checkpoint(work / "checkpoints")):
        tuning.resume(checkpoint)
        if accelerator.is_main_process:
            print(f"going on from {checkpoint}: step {tuning.done.steps} of {tuning.total:,} at most", flush=True)
    done = tuning.run(interruption)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}

    if config.validations:
        shutil.copytree(work / "best", directory, dirs_exist_ok=True)
    else:
        save_artifact(model, tokenizer, directory, config.prompt)
    tuned = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(accelerator.device)
    metrics = done.describe() | {
        "best_validation": done.best or None,
        "bits_per_byte": bits_per_byte(tuned, tokenizer, texts, autocast),
        "base_bits_per_byte": records.read("base")[0]["bits_per_byte"],
    }
    del tuned
    if config.int8_check:  # on questions that neither trained nor score the model, where some are held out
        metrics |= choose_weights(directory, held_out if len(held_out) else test, config.int8_limit)
    with open_artifact(directory) as llm:
        metrics |= {"engine": type(llm.engine).__name__} | evaluate(llm, test)
        metrics["without_context"] = evaluate(llm, _first(test, CONTEXT_FREE), with_context=False)
    records.log("test", done.steps, **metrics)
    records.close()
    write_report(work, records, settings(config), metrics)
    for path in (*work.glob("report.md"), *work.glob("*.png")):
        shutil.copy(path, directory)
    return metrics


def encoding_config(config: Config, segments: bool = True) -> EncodingConfig:
    """The encoding that `config` asks for. Without `segments` questions do not share their context, whatever `config` says."""
    names = [field.name for field in dataclasses.fields(EncodingConfig) if field.name not in ("order", "share_context")]
    values = {name: getattr(config, name) for name in names}
    return EncodingConfig(order=config.prompt, share_context=config.share_context and segments, **values)


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(count, len(rows))))


def _print_validation(done: Progress, scores: dict[str, Any]) -> None:
    print(f"\nstep {done.steps}: EM {scores['exact_match']:.1f}  F1 {scores['f1']:.1f} on {scores['questions']} validation questions")
    for shown in scores["answers"]:
        print(f"  {shown['question']}\n    {shown['answer']!r}, expected {' or '.join(map(repr, shown['references']))}", flush=True)
