"""Fine-tuning from start to finish: a base model and a data set in, an artifact out. Read `fine_tune` first."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from models.answering.answers import ALWAYS_ANSWERS, AnswerSettings
from training.checkpoint import CHECKPOINTS
from training.config import Config
from training.data.encoding import EncodingConfig, encode, encode_mixture
from training.data.selection import answerable, contexts, draw, split_articles, split_contexts
from training.data.squad import Splits
from training.data.unanswerable import make_unanswerable, mix
from training.errors import TrainingError
from training.evaluation.abstention import MIN_FIT, fit_answer_settings
from training.evaluation.answers import TOO_LONG, answer_rows, evaluate, outcomes, sample_answers
from training.evaluation.bits_per_byte import bits_per_byte, excerpts
from training.export.artifact import export_for_cpu, open_artifact, save_artifact, set_answer_settings
from training.export.model_card import write_model_card
from training.export.quantization import choose_weights
from training.fine_tuning.base_model import add_adapters, supports_shared_context
from training.fine_tuning.checkpoint import find_checkpoint, require_shared
from training.fine_tuning.loop import FineTuner, Progress
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.report import write_report
from training.interruption import Interruption
from training.run import FINE_TUNING, display_name, effective_settings, hyperparameters

SAMPLE_ANSWERS = 5
"""The number of questions whose answers each validation prints, always the same ones."""
HARD_DECISION_WEIGHT = 24.0
"""The weight of the decision for questions that people wrote to be hard to decide: see docs/benchmarks.md."""
TEXT_WEIGHT, HARD_TEXT_WEIGHT = 0.5, 1.0
"""The weight of plain text, and the one beside a heavier decision, which leaves less of each step's loss to the text."""
FEW_STEPS = 50
"""A training whose time ends before that many steps prints a warning."""
QUESTIONS_WITHOUT_CONTEXT = 200
"""The number of test questions that are also asked without their context."""


@dataclass(frozen=True)
class Data:
    """The rows that a fine-tuning uses, and the texts that bits per byte are measured on."""

    train: Dataset
    validation: Dataset
    """Held out of the training data; empty without validations."""
    test: Dataset
    texts: list[str]
    """Excerpts of test contexts."""


def fine_tune(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    splits: Splits,
    directory: Path,
    seconds: float | None,
    config: Config,
    accelerator: Accelerator,
    interruption: Interruption,
) -> dict[str, Any]:
    """Fine-tune the base model, write the artifact with report and model card into `directory`, and return the metrics on test questions.

    The answers come from the engine that serves on this machine: with int8 or fp16 weights on a CPU, bf16 on a GPU. Every process must
    call this; all but the main one get an empty dict. Raises TrainingError if the machines do not share `config.output_dir`.
    """
    model, tokenizer = base
    require_shared(config.output_dir, accelerator)
    work = config.output_dir / FINE_TUNING  # checkpoints, the best artifact so far, curves, report
    data = split_data(splits, tokenizer, config)
    with accelerator.local_main_process_first():  # on each machine: they may share no file system
        encoding = encoding_config(config, data.train, supports_shared_context(model))
        sequences = encode_all(data.train, tokenizer, encoding, config)
    log = MetricsLog(work, accelerator, hyperparameters(config))
    torch.manual_seed(config.seed + accelerator.process_index)
    if accelerator.is_main_process and not log.read("base"):  # a resumed run has measured it already
        model.to(accelerator.device)
        base_bits_per_byte = bits_per_byte(model, tokenizer, data.texts, accelerator.mixed_precision == "bf16")
        log.log("base", 0, bits_per_byte=base_bits_per_byte)

    if config.lora_rank:
        add_adapters(model, config.lora_rank)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()

    def validate(progress: Progress) -> dict[str, Any]:
        return validate_candidate(model, tokenizer, data.validation, progress, log, work, config)

    tuner = FineTuner(model, sequences, config, seconds, accelerator, log, work / CHECKPOINTS, validate)
    if config.resume:
        resume_from_newest_checkpoint(tuner, work / CHECKPOINTS)
    progress = tuner.run(interruption)
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return {}
    if seconds is not None and progress.seconds >= seconds and progress.steps < FEW_STEPS:
        print(
            f"only {progress.steps} steps in {progress.seconds / 60:.1f} minutes: the model has hardly learned anything. "
            "Is this machine busy? Give it more --max-minutes",
            flush=True,
        )

    if config.validations:
        shutil.copytree(work / "best", directory, dirs_exist_ok=True)
    else:
        save_artifact(model, tokenizer, directory, config.prompt, answer_settings(config))
    export_for_cpu(directory)  # also on a GPU: the model store's artifacts run anywhere
    metrics = progress.summary() | {"best_validation": progress.best or None}
    metrics |= compare_bits_per_byte(directory, tokenizer, data.texts, accelerator, log)
    if config.int8_check:  # preferably on questions that belong to neither the training nor the test data
        metrics |= choose_weights(directory, data.validation if len(data.validation) else data.test, config.int8_limit)
    if config.unanswerable_share and len(data.validation):
        calibrate(directory, data.validation, config.changed_share)
    metrics |= evaluate_artifact(directory, data.test)
    log.log("test", progress.steps, **metrics)
    metrics["curve"] = log.curve()
    log.close()
    write_report(work, log, effective_settings(config), metrics)
    for path in (*work.glob("report.md"), *work.glob("*.png")):
        shutil.copy(path, directory)
    write_model_card(directory, display_name(config.base_model), display_name(config.dataset), splits.description, config, metrics)
    return metrics


def split_data(splits: Splits, tokenizer: PreTrainedTokenizerBase, config: Config) -> Data:
    """Hold validation questions out of the training data, and cut training and test data to the configured numbers of questions."""
    train, validation = splits.train, splits.train.select([])
    if config.validation_examples:
        validation, train = split_articles(train, min(config.validation_examples, len(train) // 10), config.seed)
        if not len(train):
            raise TrainingError(
                "the training data has a single context, and the validation would take it: give --validations 0 and --validation-examples 0"
            )
    if config.max_train_examples:
        train, _ = split_contexts(train, config.max_train_examples, config.seed)
    test = draw(splits.test, config.eval_examples, config.seed)
    texts = excerpts(contexts(draw(splits.test, None, config.seed)), tokenizer, config.max_length)
    return Data(train, validation, test, texts)


def encode_all(rows: Dataset, tokenizer: PreTrainedTokenizerBase, encoding: EncodingConfig, config: Config) -> Dataset:
    """Encode the rows and, if the model learns to abstain, the unanswerable questions that `mix` adds."""
    if not encoding.abstain:
        return encode(rows, tokenizer, encoding)
    return encode_mixture(mix(rows, config.unanswerable_share, config.changed_share), tokenizer, encoding)


def encoding_config(config: Config, rows: Dataset, can_share_context: bool = True) -> EncodingConfig:
    """Return the encoding of `rows` that `config` describes, without shared contexts if the model does not support them."""
    abstain = config.unanswerable_share > 0
    decision_weight = config.decision_weight or (HARD_DECISION_WEIGHT if len(answerable(rows)) < len(rows) else 1.0)
    text_weight = HARD_TEXT_WEIGHT if abstain and decision_weight > 1 else TEXT_WEIGHT
    return EncodingConfig(
        order=config.prompt,
        share_context=config.share_context and can_share_context,
        max_length=config.max_length,
        prompt_weight=config.prompt_weight,
        text_share=config.text_share,
        text_weight=text_weight if config.text_weight is None else config.text_weight,
        context_free_share=config.context_free_share,
        abstain=abstain,
        decision_weight=decision_weight,
    )


def answer_settings(config: Config) -> AnswerSettings:
    """Return the settings of a model that has not been calibrated."""
    return AnswerSettings(abstains=True, no_answer_threshold=0.5) if config.unanswerable_share else ALWAYS_ANSWERS


def calibrate(directory: Path, validation: Dataset, changed_share: float) -> None:
    """Choose the artifact's threshold and calibrate its scores on questions that it was not trained on.

    If too few of them are unanswerable, one is made of each that is answerable (see `make_unanswerable`).
    """
    answered = answerable(validation)
    if len(validation) - len(answered) < MIN_FIT:
        validation = concatenate_datasets([validation, make_unanswerable(answered, 1.0, changed_share)])
    with open_artifact(directory) as llm:
        answers, matches = asyncio.run(answer_rows(llm, validation, with_context=True))
    # A question that is too long has no probabilities to calibrate.
    kept = [index for index, answer in enumerate(answers) if answer is not TOO_LONG]
    found = outcomes([answers[index] for index in kept], [matches[index] for index in kept], validation.select(kept))
    settings = fit_answer_settings(found)
    set_answer_settings(directory, settings)
    threshold, questions = settings.no_answer_threshold, len(kept)
    print(f"declines above a no-answer probability of {threshold:.2f}, chosen on {questions:,} questions", flush=True)


def resume_from_newest_checkpoint(tuner: FineTuner, checkpoints: Path) -> None:
    """Resume from the newest complete checkpoint, if there is one."""
    checkpoint = find_checkpoint(checkpoints, tuner.accelerator)
    if checkpoint is None:
        tuner.metrics_log.truncate(steps=0, validations=0)  # of a run that was killed before its first checkpoint
        return
    tuner.resume(checkpoint)
    if tuner.accelerator.is_main_process:
        print(f"resuming from {checkpoint}: step {tuner.progress.steps} of up to {tuner.max_steps:,}", flush=True)


def validate_candidate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    progress: Progress,
    log: MetricsLog,
    work: Path,
    config: Config,
) -> dict[str, Any]:
    """Export the current weights and evaluate the artifact on `rows`; keep it as `best` unless an earlier one was clearly better.

    Logs and prints the metrics and a few answers. Returns the step, EM and F1.
    """
    candidate, best = work / "candidate", work / "best"
    save_artifact(model, tokenizer, candidate, config.prompt, answer_settings(config))
    with open_artifact(candidate) as llm:
        metrics = evaluate(llm, rows) | {"answers": sample_answers(llm, _first(rows, SAMPLE_ANSWERS))}
    log.log("validation", progress.steps, **metrics)
    _print_validation(progress, metrics)
    if progress.keeps(metrics):
        shutil.rmtree(best, ignore_errors=True)
        candidate.rename(best)
    return {"step": progress.steps} | {name: metrics[name] for name in ("exact_match", "f1", "f1_error")}


def compare_bits_per_byte(
    directory: Path, tokenizer: PreTrainedTokenizerBase, texts: list[str], accelerator: Accelerator, log: MetricsLog
) -> dict[str, Any]:
    """Return the bits per byte of the chosen weights and of the base model: the model should remain a language model."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(accelerator.device)
    return {
        "bits_per_byte": bits_per_byte(model, tokenizer, texts, accelerator.mixed_precision == "bf16"),
        "base_bits_per_byte": log.read("base")[0]["bits_per_byte"],
    }


def evaluate_artifact(directory: Path, test: Dataset) -> dict[str, Any]:
    """Evaluate the artifact on test questions, with and without their contexts, through the engine that serves it here."""
    with open_artifact(directory) as llm:
        metrics = {"engine": type(llm.engine).__name__} | evaluate(llm, test)
        metrics["without_context"] = evaluate(llm, _first(test, QUESTIONS_WITHOUT_CONTEXT), with_context=False)
    return metrics


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(count, len(rows))))


def _print_validation(progress: Progress, metrics: dict[str, Any]) -> None:
    exact_match, f1, questions = metrics["exact_match"], metrics["f1"], metrics["questions"]
    print(f"\nstep {progress.steps}: EM {exact_match:.1f}  F1 {f1:.1f} on {questions} validation questions")
    for sample in metrics["answers"]:
        expected = " or ".join(map(repr, sample["references"])) or "no answer"
        print(f"  {sample['question']}\n    {sample['answer']!r}, expected {expected}", flush=True)
