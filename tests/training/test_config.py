import dataclasses
import math
import re

import pytest

from tests.conftest import PROJECT
from training.config import PRESETS, Config, Preset, parse


def test_gpt2_on_squad_is_the_default() -> None:
    config = parse([])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")
    assert config.only == ("bigram", "rnn", "llm")


def test_a_preset_sets_defaults_and_flags_override_them() -> None:
    config = parse(["--max-minutes", "2", "--preset", "quickstart", "--only", "rnn", "llm"])
    assert config == dataclasses.replace(PRESETS["quickstart"], max_minutes=2, only=("rnn", "llm"))


@pytest.mark.parametrize("preset", ["gpt2-squad-1gpu", "gpt2-squad-4gpu"])
def test_the_presets_for_gpus_differ_in_their_steps_alone_and_scale_the_learning_rate(preset: Preset) -> None:
    default, config = PRESETS["gpt2-squad"], PRESETS[preset]
    names = ("batch_tokens", "micro_tokens", "learning_rate")
    assert dataclasses.replace(config, preset="gpt2-squad", **{name: getattr(default, name) for name in names}) == default
    rate = default.learning_rate * math.sqrt(config.batch_tokens / default.batch_tokens)
    assert config.learning_rate == pytest.approx(rate, rel=0.05)


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    source = (PROJECT / "training/config.py").read_text()
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text
        assert re.search(rf'    {field.name}: .*\n    """', source), f"{field.name} has no docstring"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nope"], "gpt2-squad"),
        (["--epochs", "0"], "must be above 0"),
        (["--max-minutes", "-1"], "must be above 0"),
        (["--only", "gpt"], "bigram"),
        (["--only"], "at least one"),
        (["--seed", "-1"], "0 or more"),
        (["--batch-tokens", "100"], "must be at least --max-length"),
        (["--text-share", "1.5"], "from 0 to 1"),
        (["--validations", "-1"], "0 or more"),
        (["--unanswerable-share", "1"], "below 1"),
        (["--decision-weight", "0"], "must be above 0"),
        (["--eval-only", "runs/latest/llm", "--only", "bigram"], "--eval-only needs a model"),
        (["--validation-examples", "0"], "give --validations 0"),
        (["--prompt", "backwards"], "context-first"),
        (["--learning_rte", "1"], "learning"),
    ],
)
def test_a_wrong_flag_exits_with_status_2_and_names_the_valid_values(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(arguments)
    assert exit.value.code == 2
    assert message in "".join(capsys.readouterr())
