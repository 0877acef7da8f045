"""Train three generations of text generation and register them in the BentoML model store.

    python train.py                                   the mission: GPT-2 on SQuAD, from the Hub; wants a GPU
    python train.py --preset quickstart               minutes on two CPU cores, without the Hub
    python train.py --base-model DIR --dataset DIR    any small causal LM, any data in SQuAD's schema

`--help` explains each flag. Read from top to bottom: configure, load the data, train, evaluate, register.
"""

import shutil
import sys

from training.config import Config, parse
from training.errors import TrainingError
from training.hub import SMOLLM2, describe, fetch_smollm2, resolve


def main(config: Config) -> None:
    """Train and register what `config` says."""
    asked, config = config, resolve(config)
    print(describe(asked, config), flush=True)

    # Imported now: `--help` answers at once, and the Hub's client reads the environment that `resolve` set.
    from models.store import Artifact, register
    from training.data import contexts, draw, load_splits
    from training.device import choose_device
    from training.fitting import fit_bigram, fit_llm, fit_rnn
    from training.records import describe_run, quieten, show

    quieten()
    if config.base_model == str(SMOLLM2):
        fetch_smollm2()

    if "llm" in config.only:
        from training.loop import load_base

        base = load_base(config.base_model, config.max_length)  # before the data: without a base model nothing else is worth waiting for
    splits = load_splits(config.dataset)
    print(f"{len(splits.train):,} training and {len(splits.test):,} test questions · {choose_device()[2]}", flush=True)

    shutil.rmtree(config.output_dir, ignore_errors=True)
    run = describe_run(config, splits)
    artifacts: dict[str, Artifact] = {}
    train_text, test_text = contexts(splits.train), contexts(splits.test)
    if "bigram" in config.only:
        directory = config.output_dir / "bigram"
        artifacts["bigram"] = Artifact(directory, run | {"metrics": fit_bigram(train_text, test_text, directory)})
    if "rnn" in config.only:
        directory = config.output_dir / "rnn"
        artifacts["rnn"] = Artifact(directory, run | {"metrics": fit_rnn(train_text, test_text, directory, config)})
    if "llm" in config.only:
        directory = config.output_dir / "llm"
        train_rows = draw(splits.train, config.max_train_examples, config.seed)
        test_rows = draw(splits.test, config.eval_examples, config.seed)
        artifacts["llm"] = Artifact(directory, run | {"metrics": fit_llm(base, train_rows, test_rows, directory, config)})

    show({name: artifact.metadata["metrics"] for name, artifact in artifacts.items()}, config.output_dir)
    if config.register:
        print("registered:", ", ".join(register(artifacts)))


if __name__ == "__main__":
    try:
        main(parse())
    except TrainingError as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted; nothing was registered")
