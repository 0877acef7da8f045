"""Create the models of the load test: `python -m tests.load.models DIRECTORY`, half a minute on two cores.

They have the sizes of real ones, and their texts mean nothing: GPT-2 small with random weights in int8, and word models with SQuAD's
vocabulary, fitted for seconds to the quickstart's texts and made-up words.
"""

import os
import sys
from pathlib import Path

from models.store.registration import Artifact, register
from training.config import Config
from training.data.selection import contexts
from training.data.squad import load_splits
from training.device import silence_libraries
from training.export.artifact import export_for_cpu, save_artifact
from training.fine_tuning.base_model import load_base
from training.interruption import Interruption
from training.word_models.fitting import fit_bigram, fit_rnn
from training.word_models.lstm import LSTMConfig

FIT_SECONDS = 15
WORDS_PER_TEXT = 100


def word_texts() -> list[str]:
    """Return the quickstart's texts, and enough made-up words to fill the vocabulary."""
    words = [f"word{number}" for number in range(LSTMConfig.vocabulary_size)]
    made_up = [" ".join(words[start : start + WORDS_PER_TEXT]) for start in range(0, len(words), WORDS_PER_TEXT)]
    return [*contexts(load_splits("data/quickstart").train)] * 20 + made_up


def create(directory: Path, base_model: str) -> None:
    """Write the artifacts to `directory` and register them in the store of BENTOML_HOME."""
    silence_libraries(True)
    save_artifact(*load_base(base_model, 1024), directory / "llm", Config.prompt)
    export_for_cpu(directory / "llm")
    texts = word_texts()
    fit_bigram(texts, texts[:1], directory / "bigram")
    fit_rnn(texts, texts[:1], Config(output_dir=directory), FIT_SECONDS, Interruption())
    register({name: Artifact(directory / name, {}) for name in ("bigram", "rnn", "llm")})


if __name__ == "__main__":
    from benchmarks.train import random_gpt2

    assert "BENTOML_HOME" in os.environ, "set BENTOML_HOME: the models go into its store"
    create(Path(sys.argv[1]), random_gpt2())
