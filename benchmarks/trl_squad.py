"""What TRL's SFTTrainer reaches in the same minutes: `python -m benchmarks.trl_squad --base-model DIR --dataset DIR --minutes 20`.

Its best configuration for this task (benchmarks/peers.py), the same rows and template, the same
schedule of the learning rate over the minutes; TRL's own default of 8 rows a step, for more steps than the 16 of the throughput benchmark.
Evaluated as train.py evaluates: the same test questions, the same engine.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

TRL_BATCH, TRL_LENGTH = 16, 384


def prompts_and_completions(rows: Any) -> Any:
    """TRL's form of the same template: with it, SFTTrainer supervises the completion and the end of the text alone."""
    from models.llm import answer_text, question_prompt

    return rows.map(
        lambda row: {
            "prompt": question_prompt(row["question"], row["context"]),
            "completion": answer_text(row["answers"]["text"][0]),
        },
        remove_columns=rows.column_names,
    )


def sft_config(directory: str, **settings: Any) -> Any:
    """bf16, fused AdamW, groups of like length, no recomputation of activations (its default, which costs a third)."""
    import torch
    from trl import SFTConfig

    best: dict[str, Any] = {
        "bf16": True,
        "optim": "adamw_torch_fused",
        "per_device_train_batch_size": TRL_BATCH,
        "max_length": TRL_LENGTH,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "learning_rate": 1e-4,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1000,
        "use_cpu": not torch.cuda.is_available(),
    }
    return SFTConfig(output_dir=directory, **best | settings)


ROWS = 5000
"""More than TRL reaches in the minutes."""


def main() -> None:
    """See the module's docstring."""
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    from training.config import Config
    from training.data.selection import answerable, draw
    from training.data.squad import load_splits
    from training.device import silence_libraries
    from training.evaluation.answers import evaluate
    from training.export.artifact import open_artifact, save_artifact
    from training.fine_tuning.loop import learning_rate

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--learning-rate", type=float, default=Config.learning_rate)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--eval-examples", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    silence_libraries(True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    splits = load_splits(arguments.dataset)
    rows = prompts_and_completions(draw(answerable(splits.train), ROWS, Config.seed))

    class TimedTrainer(SFTTrainer):
        """Its learning rate follows the clock, as train.py's does: what fits into the minutes need not be guessed."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda _: learning_rate(1.0, min(max(share(), 0.005), 1.0)))
            return self.lr_scheduler

    class Deadline(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop |= share() >= 1

    with tempfile.TemporaryDirectory() as scratch:
        trainer = TimedTrainer(
            model=arguments.base_model,
            args=sft_config(scratch, learning_rate=arguments.learning_rate, per_device_train_batch_size=arguments.batch_size),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Deadline()],
        )
        began = time.perf_counter()

        def share() -> float:
            return (time.perf_counter() - began) / float(60 * arguments.minutes)

        trainer.train()
        seconds = time.perf_counter() - began
        directory = Path(scratch) / "artifact"
        save_artifact(trainer.model, tokenizer, directory, Config.prompt)
        with open_artifact(directory) as llm:
            scores = evaluate(llm, draw(splits.test, arguments.eval_examples, Config.seed))
    seen = trainer.state.global_step * trainer.args.per_device_train_batch_size
    print(
        f"TRL SFTTrainer: EM {scores['exact_match']:.1f}  F1 {scores['f1']:.1f} on {scores['questions']} questions; "
        f"{seen:,} rows in {seconds:.0f} s, {trainer.state.global_step} steps"
    )


if __name__ == "__main__":
    main()
