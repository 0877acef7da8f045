"""What TRL's SFTTrainer reaches in the same minutes: `python -m benchmarks.trl_squad --base-model DIR --dataset DIR --minutes 20`.

Its best configuration for this task (benchmarks/peers.py), the same rows and template; the learning rate rises and falls over the steps
that fit into the minutes, which two steps beforehand tell. Evaluated as train.py evaluates: the same test questions, the same engine.
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
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTTrainer

    from training.config import Config
    from training.data import answerable, draw, load_splits
    from training.device import quieten
    from training.evaluation import evaluate
    from training.qa import loaded, save_artifact

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--learning-rate", type=float, default=Config.learning_rate)
    parser.add_argument("--eval-examples", type=int, default=1000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    quieten(True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base_model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    splits = load_splits(arguments.dataset)
    rows = prompts_and_completions(draw(answerable(splits.train), ROWS, Config.seed))

    class Deadline(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            control.should_training_stop = time.perf_counter() - began > 60 * arguments.minutes

    with tempfile.TemporaryDirectory() as scratch:

        def train(steps: int) -> Any:
            trainer = SFTTrainer(
                model=arguments.base_model,
                args=sft_config(scratch, max_steps=steps, learning_rate=arguments.learning_rate),
                train_dataset=rows,
                processing_class=tokenizer,
                callbacks=[Deadline()],
            )
            trainer.train()
            return trainer

        began = time.perf_counter()
        per_step = train(2).state.log_history[-1]["train_runtime"] / 2
        began = time.perf_counter()
        trainer = train(int(60 * arguments.minutes / per_step))
        seconds = trainer.state.log_history[-1]["train_runtime"]
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
