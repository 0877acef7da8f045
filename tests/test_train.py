"""The real `train.py`: its output, its files, the models that it registers, and its error messages."""

import http.server
import json
import math
import re
import runpy
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.store import TAGS
from tests.conftest import PROJECT, Trained, run


def test_it_prints_its_sources_first_then_metrics_and_the_registered_models_last(trained: Trained, tiny_base: Path) -> None:
    lines = trained.printed.splitlines()
    assert lines[0] == f"base model: {tiny_base} · data set: data/quickstart"
    assert re.match(r"866 training and 234 test questions \(220 of them unanswerable\) · .*(bf16|fp32)", lines[1])
    assert re.search(r"^llm     EM \d+\.\d  F1 \d+\.\d  on 9 held-out questions", trained.printed, re.MULTILINE)
    assert re.search(r"^ +with 3 unanswerable questions: EM \d+\.\d  F1 \d+\.\d  declining above", trained.printed, re.MULTILINE)
    assert re.search(r"^bigram  \d\.\d+ bits per byte of held-out text, perplexity \d", trained.printed, re.MULTILINE)
    assert re.search(r"^rnn     \d\.\d+ bits per byte", trained.printed, re.MULTILINE)
    assert re.match(r"registered: trigen-bigram:\w+, trigen-rnn:\w+, trigen-llm:\w+$", lines[-1])


def test_registered_models_have_metadata_and_no_pickles(trained: Trained) -> None:
    comparison = {f"comparison/{name}" for name in ("comparison.md", "comparison.json", "bits_per_byte.png", "speed.png")}
    expected = {
        "bigram": {"counts.npz", "vocabulary.json", "spelling.npz", *comparison},
        "rnn": {"lstm.safetensors", "vocabulary.json", "spelling.npz", *comparison},
        "llm": {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "README.md",
            "openvino/openvino_model.xml",
            *comparison,
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
        assert (metadata["dataset"]["train_rows"], metadata["dataset"]["test_rows"]) == (866, 234)
        assert metadata["configuration"]["max_steps"] == 8
        assert ("base_model" in metadata) == (name == "llm")
    # From here on, `metadata` is that of the LLM, the last of them.
    assert metadata["metrics"]["steps"] == 8
    assert metadata["metrics"]["questions"] == 9
    assert metadata["metrics"]["squad2"]["unanswerable"] == 3


def test_metrics_json_has_the_metrics_of_all_models(trained: Trained) -> None:
    metrics = json.loads((trained.output / "metrics.json").read_text())
    assert set(metrics) == {"bigram", "rnn", "llm"}
    assert 1 < metrics["bigram"]["bits_per_byte"] < 4
    assert metrics["llm"]["tokens_per_second"] > 0


def compare(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what `make report` runs, but in this process, which has already imported torch."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("sys.argv", ["comparison", str(directory)])
    runpy.run_module("training.comparison", run_name="__main__")


class UnreachableHub(http.server.ThreadingHTTPServer):
    """A Hub that closes every connection without a response, and counts them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        self.connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        self.shutdown_request(request)


RUN_ALL = """
import json, os, runpy, sys

environment = dict(os.environ)
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["train.py", *arguments]
    status = 0
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as exit:
        status = exit.code
    for stream in (sys.stdout, sys.stderr):
        print(f"-- {status}", file=stream, flush=True)
    os.environ.clear()
    os.environ.update(environment)
"""
"""Runs the real script once for each list of arguments, all in one process: importing the libraries takes most of the time."""

WRONG = {
    "no Hub": (None, "base model openai-community/gpt2 cannot be loaded"),
    "no Hub for the data set": (["--dataset", "rajpurkar/squad"], "data set rajpurkar/squad cannot be loaded"),
    "no such data set": (["--dataset", "./nowhere"], "data set ./nowhere: no such file or directory"),
    "no such base model": (["--base-model", "/no/such"], "base model /no/such: no such directory"),
    "not a base model": (["--base-model", "data/quickstart"], "base model data/quickstart: there is no config.json in this directory"),
    "no such model to evaluate": (["--eval-only", "./nowhere"], "--eval-only: base model ./nowhere: no such directory"),
    "no such config": (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read: No such file or directory\n"),
    "long sequences": (["--max-length", "769"], "base model {base} takes at most 768 tokens: lower --max-length\n"),
}
"""For each mistake: the arguments after a valid base model and data set, or None for no arguments at all; and the start of the message."""


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Results:
    """The results of a run that trains the bigram only, into a directory that is not empty, and of each case of `WRONG`."""

    home: Path
    bigram: Result
    wrong: dict[str, Result]
    connections: int
    """Connections to the Hub, of all runs together."""


@pytest.fixture(scope="module")
def results(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    home = tmp_path_factory.mktemp("results")
    for name in ("notes.txt", "bigram/old.txt"):
        (home / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "out" / name).touch()
    valid = ["--base-model", str(tiny_base), "--dataset", "data/quickstart"]
    runs = [[] if arguments is None else [*valid, *arguments] for arguments, _ in WRONG.values()]
    runs.append(["--dataset", "data/quickstart", "--only", "bigram", "--no-register", "--output-dir", str(home / "out")])
    with UnreachableHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{hub.server_port}"
        # The first run must be one that looks for the Hub: it sets HF_HUB_OFFLINE, which the libraries read once, when they are imported.
        done = run(["-c", RUN_ALL, json.dumps(runs)], home, HF_HUB_OFFLINE="0", HF_ENDPOINT=endpoint)
        hub.shutdown()
    parts = [re.split(r"^-- (\d+)\n", printed, flags=re.MULTILINE) for printed in (done.stdout, done.stderr)]
    assert [len(part) for part in parts] == [2 * len(runs) + 1] * 2, done.stderr
    (stdout, statuses), (stderr, _) = ((part[:-1:2], part[1::2]) for part in parts)
    *wrong, bigram = (Result(int(status), out, error) for status, out, error in zip(statuses, stdout, stderr, strict=True))
    return Results(home, bigram, dict(zip(WRONG, wrong, strict=True)), hub.connections)


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_ends_the_run_with_one_message(results: Results, tiny_base: Path, case: str) -> None:
    result = results.wrong[case]
    assert result.status == 2
    assert result.stderr.startswith(f"train.py: {WRONG[case][1].format(base=tiny_base)}")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_a_registration_that_fails_ends_the_run_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "bentoml").mkdir()
    (tmp_path / "bentoml/.models-registration").touch()  # a file where the directory should be
    arguments = ["--dataset", "data/quickstart", "--only", "bigram", "--output-dir", str(tmp_path / "out")]
    done = run(["train.py", *arguments], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: nothing was registered: [Errno 17] File exists: ")
    assert done.stderr.endswith("; --resume keeps finished work\n")
    assert done.stderr.count("\n") == 1


def test_without_the_hub_the_message_offers_local_sources_and_nothing_is_retried(results: Results) -> None:
    assert "--base-model" in results.wrong["no Hub"].stderr
    assert "--preset quickstart" in results.wrong["no Hub"].stderr
    # One connection each: two runs with Hub ids, three with paths that do not exist, and the bigram's, whose base model is the default.
    assert results.connections == 6


def test_training_one_model_without_registering_keeps_other_files(
    results: Results, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = results.home / "out"
    assert results.bigram.status == 0, results.bigram.stderr
    assert results.bigram.stdout.startswith("data set: data/quickstart\n")
    assert {path.name for path in output.iterdir()} == {"bigram", "comparison", "config.json", "metrics.json", "notes.txt"}
    assert not (output / "bigram/old.txt").exists()
    assert not (results.home / "bentoml/models/trigen-bigram").exists()

    page = output / "comparison/comparison.md"
    first = json.loads(page.with_suffix(".json").read_text())["models"]
    page.unlink()
    compare(output, monkeypatch)
    assert "| bigram | **" in capsys.readouterr().out
    assert page.exists()
    for name, measured in json.loads(page.with_suffix(".json").read_text())["models"].items():
        assert (measured["samples"], measured["bits_per_byte"]) == (first[name]["samples"], first[name]["bits_per_byte"])


def test_the_comparison_measures_all_models_on_the_same_bytes_and_explains_their_order(trained: Trained) -> None:
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


def test_comparing_a_directory_without_a_run_ends_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        compare(tmp_path, monkeypatch)
    message = exit.value.code
    assert isinstance(message, str)  # Python prints a string and exits with status 1
    assert message.endswith("`python train.py` in runs/latest")
    assert "\n" not in message
    assert capsys.readouterr() == ("", "")
