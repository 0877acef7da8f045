"""Fine-tune with TRL's SFTTrainer for a given time, as a peer of train.py.

    python -m benchmarks.trl_squad --base-model DIR --dataset DIR --minutes 20

The rows, the template and the learning rate's schedule over the minutes are train.py's. So is the evaluation: the same test questions and
the same engine. The rest is TRL's best configuration for this task (`sft_config`), which benchmarks/train.py measures too, but with
steps of 8 rows, TRL's default, instead of 16, because more steps learn more in the same minutes.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

TRL_BATCH, TRL_LENGTH = 16, 384
ROWS = 5000
"""More rows than TRL reaches in twenty minutes."""


def prompts_and_completions(rows: Any) -> Any:
    """Return `rows` as prompts and completions in train.py's template: SFTTrainer supervises only the answer and the end of the text."""
    from models.answering.prompts import answer_text, question_prompt

    return rows.map(
        lambda row: {
            "prompt": question_prompt(row["question"], row["context"]),
            "completion": answer_text(row["answers"]["text"][0]),
        },
        remove_columns=rows.column_names,
    )


def sft_config(directory: str, **settings: Any) -> Any:
    """Return TRL's best configuration for this task, with `settings` on top.

    It has bf16, fused AdamW and batches grouped by length. Gradient checkpointing, TRL's default, is off: it costs a third of the speed.
    """
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


def main() -> None:
    """Fine-tune, evaluate, and print the metrics in one line."""
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
    parser.add_argument("--base-model", required=True, help="a directory or Hub id")
    parser.add_argument("--dataset", required=True, help="a directory or Hub id in SQuAD's schema")
    parser.add_argument("--minutes", type=float, default=20, help="the training time (default: 20)")
    parser.add_argument("--learning-rate", type=float, default=Config.learning_rate, help="the peak (default: train.py's)")
    parser.add_argument("--batch-size", type=int, default=8, help="rows per step (default: 8)")
    parser.add_argument("--eval-examples", type=int, default=1000, help="the number of test questions (default: 1000)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    silence_libraries(True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    splits = load_splits(arguments.dataset)
    rows = prompts_and_completions(draw(answerable(splits.train), ROWS, Config.seed))

    class TimedTrainer(SFTTrainer):
        """A trainer whose learning rate follows the clock, as train.py's does, so the number of steps need not be guessed."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
            # At progress 0 the learning rate is 0, and the first step would change nothing.
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda _: learning_rate(1.0, min(max(progress(), 0.005), 1.0)))
            return self.lr_scheduler

    class Deadline(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop |= progress() >= 1

    with tempfile.TemporaryDirectory() as scratch:
        trainer = TimedTrainer(
            model=arguments.base_model,
            args=sft_config(scratch, learning_rate=arguments.learning_rate, per_device_train_batch_size=arguments.batch_size),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[Deadline()],
        )
        started = time.perf_counter()

        def progress() -> float:
            return (time.perf_counter() - started) / float(60 * arguments.minutes)

        trainer.train()
        seconds = time.perf_counter() - started
        directory = Path(scratch) / "artifact"
        save_artifact(trainer.model, tokenizer, directory, Config.prompt)
        with open_artifact(directory) as llm:
            metrics = evaluate(llm, draw(splits.test, arguments.eval_examples, Config.seed))
    rows_seen = trainer.state.global_step * trainer.args.per_device_train_batch_size
    print(
        f"TRL SFTTrainer: EM {metrics['exact_match']:.1f}  F1 {metrics['f1']:.1f} on {metrics['questions']} questions; "
        f"{rows_seen:,} rows in {seconds:.0f} s, {trainer.state.global_step} steps"
    )


if __name__ == "__main__":
    main()
