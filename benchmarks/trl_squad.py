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

from benchmarks.peers import prompts_and_completions, sft_config

ROWS = 5000
"""More than TRL reaches in the minutes."""


def main() -> None:
    """See the module's docstring."""
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    from training.config import Config
    from training.data import answerable, draw, load_splits
    from training.device import quieten
    from training.evaluation import evaluate
    from training.loop import learning_rate
    from training.qa import loaded, save_artifact

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--learning-rate", type=float, default=Config.learning_rate)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--eval-examples", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    quieten(True)
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
        save_artifact(trainer.model, tokenizer, directory, Config())
        with loaded(directory) as llm:
            scores = evaluate(llm, draw(splits.test, arguments.eval_examples, Config.seed))
    seen = trainer.state.global_step * trainer.args.per_device_train_batch_size
    print(
        f"TRL SFTTrainer: EM {scores['exact_match']:.1f}  F1 {scores['f1']:.1f} on {scores['questions']} questions; "
        f"{seen:,} rows in {seconds:.0f} s, {trainer.state.global_step} steps"
    )


if __name__ == "__main__":
    main()
