import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from training.config import PRESETS, Config, parse
from training.errors import TrainingError


def test_gpt2_on_squad_is_the_default() -> None:
    config = parse([])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")
    assert config.only == ("bigram", "rnn", "llm")


def test_a_preset_sets_defaults_and_flags_override_them() -> None:
    config = parse(["--max-minutes", "2", "--preset", "quickstart", "--only", "rnn", "llm"])
    assert config == dataclasses.replace(PRESETS["quickstart"], max_minutes=2, only=("rnn", "llm"))


@pytest.mark.parametrize("preset", ["gpt2-squad-1gpu", "gpt2-squad-4gpu"])
def test_the_presets_for_gpus_differ_in_their_steps_alone_and_scale_the_learning_rate(preset: str) -> None:
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
        (["--trackers", "tensorboard", "nope"], "trackio"),
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


def test_a_flag_wins_over_the_file_and_the_file_over_its_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: quickstart\nmax-minutes: 30\nlearning_rate: 4e-4\nonly: [rnn, llm]\nearly_stop: null\noutput_dir: runs/mine\n")
    expected = dataclasses.replace(
        PRESETS["quickstart"],
        config=file, max_minutes=30, learning_rate=4e-4, only=("rnn", "llm"), output_dir=Path("runs/mine"), seed=3,
    )  # fmt: skip
    assert parse(["--config", str(file), "--seed", "3"]) == expected
    assert parse([f"--config={file}", "--seed", "3", "--max-minutes", "5"]) == dataclasses.replace(expected, max_minutes=5)
    other_preset = parse(["--config", str(file), "--preset", "gpt2-squad"])
    assert (other_preset.preset, other_preset.epochs, other_preset.max_minutes) == ("gpt2-squad", PRESETS["gpt2-squad"].epochs, 30)


def test_the_help_shows_the_values_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.json").write_text('{"epochs": 17}')
    with pytest.raises(SystemExit):
        parse(["--config", str(tmp_path / "mine.json"), "--help"])
    assert "(default: 17)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "there is no setting epoch; did you mean epochs?"),
        ("colour: red", "there is no setting colour; expected one of preset, base_model, "),
        ("config: other.yaml", "there is no setting config; "),
        ("epochs: three", "epochs should be a valid integer, not 'three'"),
        ("epochs: yes", "epochs should be a valid integer, not True"),
        ("only: [llm, gpt]", "only should be 'bigram', 'rnn' or 'llm', not 'gpt'"),
        ("preset: [quickstart]", "preset should be 'gpt2-squad', 'gpt2-squad-1gpu', 'gpt2-squad-4gpu' or 'quickstart', not ['quickstart']"),
        ("epochs: 0", "--epochs must be above 0, not 0"),
        ("epochs: 1: 2", "cannot be read: mapping values are not allowed here"),
        ("- epochs", "expected names of flags with their values"),
        ("", "expected names of flags with their values"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content)
    with pytest.raises(TrainingError, match=re.escape(f"{file}") + ":? " + re.escape(message)) as raised:
        parse(["--config", str(file)])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["nowhere.json", ".", "broken.json", "binary.yaml"])
def test_a_file_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(json.dumps({"epochs": 3})[:-1])
    (tmp_path / "binary.yaml").write_bytes(b"epochs: \xff")
    with pytest.raises(TrainingError, match=r"cannot be read: .") as raised:
        parse(["--config", str(tmp_path / name)])
    assert "\n" not in str(raised.value)
