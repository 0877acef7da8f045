import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bentoml
import pytest
from bentoml._internal.models import ModelStore
from bentoml.exceptions import NotFound

from models.store import TAGS, TrigenModel, find, verify_all
from models.store.__main__ import main
from models.store.checksums import DamagedModel, verify
from models.store.image import pack
from models.store.registration import Artifact, register

pytestmark = pytest.mark.usefixtures("store")


def artifact(tmp_path: Path, content: str) -> Artifact:
    directory = tmp_path / f"artifact-{content}"
    (directory / "openvino").mkdir(parents=True)
    (directory / "weights.json").write_text(json.dumps(content))
    (directory / "openvino/model.xml").write_text("<net/>")
    return Artifact(directory, {"metrics": {"f1": 0.5, "absent": None}, "names": ["a", None], "git_commit": None})


def test_files_metadata_and_checksums_are_stored(tmp_path: Path) -> None:
    (tag,) = register({"llm": artifact(tmp_path, "x")})
    model = bentoml.models.get("trigen-llm:latest")
    assert str(model.tag) == tag
    assert json.loads(Path(model.path_of("weights.json")).read_text()) == "x"
    assert model.info.metadata["metrics"] == {"f1": 0.5}
    assert model.info.metadata["names"] == ["a"]
    assert model.info.metadata["files"] == {  # from sha256sum
        "openvino/model.xml": {"sha256": "9d6a064fb2248075588a97f3e7233521dadb5a5eabd1560a849c01b9f4b5c732", "bytes": 6},
        "weights.json": {"sha256": "ba2df4903a2c14e86dc3bcca58911b44ac1d2514b7227bf6eb08cfb978f55a1b", "bytes": 3},
    }
    verify(model)


def test_an_image_gets_the_weights_of_one_engine(tmp_path: Path) -> None:
    directory = artifact(tmp_path, "x").directory
    (directory / "model-00001-of-00002.safetensors").touch()
    (directory / "model.safetensors.index.json").touch()
    tags = register({name: Artifact(directory, {"data": "x"}) for name in TAGS})
    for engine, unread in (("openvino", "model*.safetensors*"), ("transformers", "openvino/*")):
        assert pack(tmp_path / "image", engine) == tags
        for tag in tags:
            model = ModelStore(tmp_path / "image/models").get(tag)
            assert verify(model)
            assert model.info.metadata["data"] == "x"
            assert (model.tag.name == "trigen-llm") == (list(Path(model.path).glob(unread)) == [])
            assert Path(model.path_of("weights.json")).exists()


def test_the_files_have_the_mode_of_new_files(tmp_path: Path) -> None:
    private = artifact(tmp_path, "x")
    (private.directory / "weights.json").chmod(0o600)
    (tmp_path / "new").touch()
    register({"llm": private})
    assert Path(TrigenModel("llm").resolve().path_of("weights.json")).stat().st_mode == (tmp_path / "new").stat().st_mode


def test_a_failure_half_way_leaves_the_store_unchanged(tmp_path: Path) -> None:
    before = register({name: artifact(tmp_path, name) for name in TAGS})
    broken = Artifact(tmp_path / "missing", {})
    with pytest.raises(FileNotFoundError):
        register({"bigram": artifact(tmp_path, "new"), "rnn": artifact(tmp_path, "newer"), "llm": broken})
    assert [str(bentoml.models.get(f"{tag}:latest").tag) for tag in TAGS.values()] == before
    assert len(bentoml.models.list()) == 3


def test_a_full_disk_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Any, target: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(OSError, match=r"^\S+ cannot be copied: \[Errno 28\] No space left on device: \S+$"):
        register({"llm": artifact(tmp_path, "x")})


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
    assert main([]) == 1
    assert capsys.readouterr().out == "missing from the model store: trigen-bigram, trigen-rnn\n"
    register({"bigram": artifact(tmp_path, "y"), "rnn": artifact(tmp_path, "z")})
    assert main([]) == 0


def change(directory: Path) -> None:
    path = directory / "weights.json"
    path.write_bytes(path.read_bytes()[::-1].replace(b"x", b"y"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (change, "weights.json does not match its checksum"),
    "truncated": (lambda path: (path / "weights.json").write_bytes(b'"'), "weights.json has 1 bytes instead of 3"),
    "missing": (lambda path: (path / "openvino/model.xml").unlink(), "openvino/model.xml is missing"),
    "added": (lambda path: (path / "openvino/extra.bin").write_bytes(b"x"), "openvino/extra.bin was not registered with it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    (tag,) = register({"llm": artifact(tmp_path, "x")})
    function, message = DAMAGES[damage]
    function(Path(TrigenModel("llm").resolve().path))
    with pytest.raises(DamagedModel, match=f"{tag} in the model store is damaged: {message}"):
        verify(TrigenModel("llm").resolve())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tag,) = register({"llm": artifact(tmp_path, "x")})

    def refuse(path: Path, *arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    model = TrigenModel("llm").resolve()
    monkeypatch.setattr(Path, "open", refuse)  # root may read every file
    with pytest.raises(DamagedModel, match=rf"{tag} .* cannot be read \(Permission denied\)"):
        verify(model)


def test_a_description_cut_off_anywhere_is_damaged(tmp_path: Path) -> None:
    (tag,) = register({"llm": artifact(tmp_path, "x")})
    description = Path(bentoml.models.get(tag).path_of("model.yaml"))
    content = description.read_bytes()
    for length in range(len(content) - 1):  # the last byte is a line break
        description.write_bytes(content[:length])
        with pytest.raises(DamagedModel, match="trigen-llm"):
            verify(TrigenModel("llm").resolve())


def test_a_model_without_checksums_passes_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with bentoml.models.create("trigen-llm", metadata={"seed": 1}) as model:
        shutil.copytree(artifact(tmp_path, "x").directory, model.path, dirs_exist_ok=True)
    register({name: artifact(tmp_path, name) for name in ("bigram", "rnn")})
    with caplog.at_level(logging.WARNING, "bentoml.trigen"):
        verify_all()
    assert [record.getMessage() for record in caplog.records] == [
        f"{model.tag} was registered without checksums, so its files are not verified"
    ]
