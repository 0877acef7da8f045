import json
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import NotFound

from models.store import TAGS, Artifact, TrigenModel, find, main, register


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Iterator[Path]:
    """An empty store in place of the one in BENTOML_HOME, which BentoML reads once per process."""
    directory = tmp_path / "store"
    directory.mkdir()
    BentoMLContainer.model_store.set(ModelStore(directory))
    yield directory
    BentoMLContainer.model_store.reset()


def artifact(tmp_path: Path, content: str) -> Artifact:
    directory = tmp_path / f"artifact-{content}"
    (directory / "openvino").mkdir(parents=True)
    (directory / "weights.json").write_text(json.dumps(content))
    (directory / "openvino/model.xml").write_text("<net/>")
    return Artifact(directory, {"metrics": {"f1": 0.5, "absent": None}, "names": ["a", None], "git_commit": None})


def test_files_and_metadata_are_stored(tmp_path: Path) -> None:
    (tag,) = register({"llm": artifact(tmp_path, "x")})
    model = bentoml.models.get("trigen-llm:latest")
    assert str(model.tag) == tag
    assert json.loads(Path(model.path_of("weights.json")).read_text()) == "x"
    assert Path(model.path_of("openvino/model.xml")).exists()
    assert model.info.metadata == {"metrics": {"f1": 0.5}, "names": ["a"]}


def test_a_failure_half_way_leaves_the_store_unchanged(tmp_path: Path) -> None:
    before = register({name: artifact(tmp_path, name) for name in TAGS})
    broken = Artifact(tmp_path / "missing", {})
    with pytest.raises(FileNotFoundError):
        register({"bigram": artifact(tmp_path, "new"), "rnn": artifact(tmp_path, "newer"), "llm": broken})
    assert [str(bentoml.models.get(f"{tag}:latest").tag) for tag in TAGS.values()] == before
    assert len(bentoml.models.list()) == 3


def test_a_failure_in_an_empty_store_leaves_it_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        register({"bigram": artifact(tmp_path, "new"), "llm": Artifact(tmp_path / "missing", {})})
    assert bentoml.models.list() == []
    assert find("bigram") is None


def test_the_newest_model_is_resolved(tmp_path: Path) -> None:
    register({"llm": artifact(tmp_path, "old")})
    (newest,) = register({"llm": artifact(tmp_path, "new")})
    assert str(TrigenModel("llm").resolve().tag) == newest


def test_a_missing_model_names_the_command_that_trains_it() -> None:
    for method in (TrigenModel("llm").resolve, TrigenModel("llm").to_info):
        with pytest.raises(NotFound, match=r"no trigen-llm in the model store: run `make serve`"):
            method()


def test_main_prints_the_missing_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    register({"llm": artifact(tmp_path, "x")})
    assert main() == 1
    assert capsys.readouterr().out == "missing from the model store: trigen-bigram, trigen-rnn\n"
    register({"bigram": artifact(tmp_path, "y"), "rnn": artifact(tmp_path, "z")})
    assert main() == 0
