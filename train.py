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
from training.hub import SMOLLM2_DIRECTORY, describe, fetch_smollm2, resolve


def main(asked: Config) -> None:
    """Train and register what `asked` says."""
    config = resolve(asked)
    print(describe(asked, config), flush=True)

    # Imported now: `--help` answers at once, and the Hub's client reads the environment that `resolve` set.
    from models.store import Artifact, register
    from training.data import contexts, draw, load_splits
    from training.device import choose_device
    from training.fitting import RNN_SHARE, fit_bigram, fit_llm, fit_rnn
    from training.loop import load_base
    from training.records import describe_run, name_of, quieten, show

    quieten()
    if "llm" in config.only:  # before the data: without a base model nothing else is worth waiting for
        if config.base_model == str(SMOLLM2_DIRECTORY):
            fetch_smollm2()
        base = load_base(config.base_model, config.max_length)
    splits = load_splits(config.dataset)
    print(f"{len(splits.train):,} training and {len(splits.test):,} test questions · {choose_device()[2]}", flush=True)

    run = describe_run(config, splits)
    artifacts: dict[str, Artifact] = {}
    directories = {name: config.output_dir / name for name in config.only}
    for directory in directories.values():
        shutil.rmtree(directory, ignore_errors=True)
    train_text, test_text = contexts(splits.train), contexts(splits.test)
    seconds = None if config.max_minutes is None else 60 * config.max_minutes

    if "bigram" in config.only:
        metrics = fit_bigram(train_text, test_text, directories["bigram"])
        artifacts["bigram"] = Artifact(directories["bigram"], run | {"metrics": metrics})
    if "rnn" in config.only:
        share = seconds and seconds * (RNN_SHARE if "llm" in config.only else 1)
        metrics = fit_rnn(train_text, test_text, directories["rnn"], share, config.seed)
        artifacts["rnn"] = Artifact(directories["rnn"], run | {"metrics": metrics})
        seconds = seconds and seconds - metrics["seconds"]
    if "llm" in config.only:
        train_rows = draw(splits.train, config.max_train_examples, config.seed)
        test_rows = draw(splits.test, config.eval_examples, config.seed)
        metrics = fit_llm(base, train_rows, test_rows, directories["llm"], seconds, config)
        artifacts["llm"] = Artifact(directories["llm"], run | {"base_model": name_of(config.base_model), "metrics": metrics})

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
