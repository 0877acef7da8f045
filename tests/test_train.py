"""The real `train.py`: what it prints, writes and registers, and how it fails."""

import json
import math
import re
import runpy
import time
from pathlib import Path

import pytest
import yaml

from models.store import TAGS
from tests.conftest import PROJECT, Trained, run


def test_it_prints_what_it_trains_on_first_and_the_scores_last(trained: Trained, tiny_base: Path) -> None:
    lines = trained.printed.splitlines()
    assert lines[0] == f"base model: {tiny_base} · data set: data/quickstart"
    assert re.match(r"706 training and 174 test questions · .*(bf16|fp32)", lines[1])
    assert re.search(r"^llm     EM \d+\.\d  F1 \d+\.\d  on 12 held-out questions", trained.printed, re.MULTILINE)
    assert re.search(r"^bigram  \d\.\d+ bits per byte of held-out text, perplexity \d", trained.printed, re.MULTILINE)
    assert re.search(r"^rnn     \d\.\d+ bits per byte", trained.printed, re.MULTILINE)
    assert re.match(r"registered: trigen-bigram:\w+, trigen-rnn:\w+, trigen-llm:\w+$", lines[-1])


def test_artifacts_are_plain_files_with_the_metadata(trained: Trained) -> None:
    page = {f"comparison/{name}" for name in ("comparison.md", "comparison.json", "bits_per_byte.png", "speed.png")}
    expected = {
        "bigram": {"counts.npz", "vocabulary.json", "spelling.npz", *page},
        "rnn": {"lstm.safetensors", "vocabulary.json", "spelling.npz", *page},
        "llm": {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "openvino/openvino_model.xml",
            *page,
        },
    }
    store = trained.home / "bentoml/models"
    for name, files in expected.items():
        latest = store / TAGS[name] / (store / TAGS[name] / "latest").read_text().strip()
        stored = {str(path.relative_to(latest)) for path in latest.rglob("*") if path.is_file()}
        assert files <= stored
        assert not [file for file in stored if Path(file).suffix in (".pkl", ".pickle", ".bin", ".pt") and "openvino" not in file]
        metadata = yaml.safe_load((latest / "model.yaml").read_text())["metadata"]
        assert set(metadata) >= {"dataset", "metrics", "seed", "packages", "configuration", "comparison"}
        assert (metadata["dataset"]["train_rows"], metadata["dataset"]["test_rows"]) == (706, 174)
        assert metadata["configuration"]["max_minutes"] == 0.4
        assert ("base_model" in metadata) == (name == "llm")
    assert metadata["metrics"]["steps"] > 0
    assert metadata["metrics"]["questions"] == 12


def test_metrics_are_written_too(trained: Trained) -> None:
    metrics = json.loads((trained.output / "metrics.json").read_text())
    assert set(metrics) == {"bigram", "rnn", "llm"}
    assert 1 < metrics["bigram"]["bits_per_byte"] < 4
    assert metrics["llm"]["tokens_per_second"] > 0


def compare(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make report` runs, but in this process, which has torch."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("sys.argv", ["comparison", str(directory)])
    runpy.run_module("training.comparison", run_name="__main__")


def test_one_model_alone_without_registering_leaves_what_else_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/bigram").mkdir(parents=True)
    for name in ("notes.txt", "bigram/old.txt"):
        (tmp_path / "out" / name).touch()
    flags = ["--dataset", "data/quickstart", "--only", "bigram", "--no-register", "--output-dir", str(tmp_path / "out")]
    done = run(["train.py", *flags], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("data set: data/quickstart\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "bigram",
        "comparison",
        "config.json",
        "metrics.json",
        "notes.txt",
    ]
    assert not (tmp_path / "out/bigram/old.txt").exists()
    assert not (tmp_path / "bentoml/models/trigen-bigram").exists()

    page = tmp_path / "out/comparison/comparison.md"
    first = json.loads(page.with_suffix(".json").read_text())["models"]
    page.unlink()
    compare(tmp_path / "out", monkeypatch)
    assert "| bigram | **" in capsys.readouterr().out
    assert page.exists()
    for name, measured in json.loads(page.with_suffix(".json").read_text())["models"].items():
        assert (measured["samples"], measured["bits_per_byte"]) == (first[name]["samples"], first[name]["bits_per_byte"])


def test_the_mission_without_the_hub_ends_soon_with_one_message(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(["train.py"], tmp_path, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - began < 30
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("train.py: base model openai-community/gpt2 cannot be loaded")
    assert "--base-model" in done.stderr
    assert "--preset quickstart" in done.stderr


SEVERAL = """
import json, os, runpy, sys

environment = dict(os.environ)
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as end:
        print(f"ended with {end.code}", flush=True)
    print("--", file=sys.stderr, flush=True)
    os.environ.clear()
    os.environ.update(environment)
"""
"""Runs the real script once for each list of arguments, in one process: to import what it imports takes most of the time."""

WRONG = {
    "rajpurkar/squad": (["--dataset", "rajpurkar/squad"], "data set rajpurkar/squad cannot be loaded"),
    "./nowhere": (["--dataset", "./nowhere"], "data set ./nowhere: no such file or directory"),
    "no such base": (["--base-model", "/no/such"], "base model /no/such: no such directory"),
    "no base": (["--base-model", "data/quickstart"], "base model data/quickstart: there is no config.json in this directory"),
    "long rows": (["--max-length", "769"], "base model {base} reads 768 tokens at most: give --max-length no more\n"),
}


@pytest.fixture(scope="module")
def refused(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the script told on stderr of each in `WRONG`, where no Hub answers; each ends with status 2."""
    good = ["--base-model", str(tiny_base), "--dataset", "data/quickstart"]
    commands = json.dumps([[*good, *arguments] for arguments, _ in WRONG.values()])
    # The Hub's first: the libraries read HF_HUB_OFFLINE when they are imported, and must find what was set for it.
    home = tmp_path_factory.mktemp("refused")
    done = run(["-c", SEVERAL, commands], home, HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout.count("ended with 2") == len(WRONG), done.stderr
    return dict(zip(WRONG, done.stderr.split("--\n"), strict=False))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_ends_with_one_message(refused: dict[str, str], tiny_base: Path, case: str) -> None:
    assert refused[case].startswith(f"train.py: {WRONG[case][1].format(base=tiny_base)}")
    assert refused[case].count("\n") == 1
    assert "Traceback" not in refused[case]


def test_the_comparison_is_of_the_same_bytes_and_explains_its_order(trained: Trained) -> None:
    comparison = json.loads((trained.output / "comparison/comparison.json").read_text())
    models = comparison["models"]
    assert list(models) == ["unigram", "bigram", "rnn", "base", "llm"]
    per_word = [m["bits_per_byte"] * comparison["bytes"] / math.log2(m["word_perplexity"]) for m in models.values()]
    assert per_word == pytest.approx([comparison["words"]] * 5)
    assert models["unigram"]["bits_per_byte"] > models["bigram"]["bits_per_byte"]
    assert all(m["tokens_per_second"] > 0 and m["latency_seconds"] > 0 and len(m["samples"]) == 3 for m in models.values())
    page = (trained.output / "comparison/comparison.md").read_text()
    assert "| fine-tuned LLM |" in page
    assert "The order does not hold between" in page  # a random LLM predicts worse than counts


def test_a_comparison_without_a_run_ends_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        compare(tmp_path, monkeypatch)
    message = end.value.code
    assert isinstance(message, str)  # so that Python prints it and ends with status 1
    assert message.endswith("`python train.py` in runs/latest")
    assert "\n" not in message
    assert capsys.readouterr() == ("", "")
