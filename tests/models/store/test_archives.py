"""Models move between stores through a bucket of an S3 server, or a directory."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import NotFound

from benchmarks.serving.process import free_port
from models.store import TAGS, find, require, verify_all
from models.store.__main__ import main
from models.store.archives import TransferError, pull, push
from models.store.checksums import DamagedModel
from models.store.registration import Artifact, register
from tests.models.store.conftest import S3Server, s3_server, store_in


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket. Returns the URL of a prefix in it."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3.make_bucket(tmp_path.name.replace("_", "-")) + "/trigen/models"


@pytest.fixture
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A bucket, or the path of a directory that does not exist yet."""
    url: str = request.getfixturevalue("bucket") if request.param == "bucket" else str(tmp_path / "stick/models")
    return url


both = pytest.mark.parametrize("remote", ["bucket", "directory"], indirect=True)


@contextmanager
def training_machine(tmp_path: Path) -> Iterator[None]:
    with store_in(tmp_path / "training"):
        yield


@contextmanager
def replica(tmp_path: Path) -> Iterator[Path]:
    with store_in(tmp_path / "replica") as directory:
        yield directory


def train(tmp_path: Path, *names: str) -> list[str]:
    """Register models of random bytes. Returns their tags."""
    artifacts = {}
    for name in names or TAGS:
        directory = tmp_path / f"artifact-{name}-{os.urandom(4).hex()}"
        (directory / "openvino").mkdir(parents=True)
        (directory / "openvino/model.bin").write_bytes(os.urandom(20_000))
        artifacts[name] = Artifact(directory, {"seed": 1})
    return register(artifacts)


def newest() -> list[str]:
    return [str(found.tag) for found in map(find, TAGS) if found]


@both
def test_models_arrive_once(remote: str, tmp_path: Path) -> None:
    with training_machine(tmp_path):
        tags = train(tmp_path)
        sent = {tag: (Path(bentoml.models.get(tag).path) / "openvino/model.bin").read_bytes() for tag in tags}
        assert push(remote) == dict.fromkeys(tags, True)
        assert push(remote) == dict.fromkeys(tags, False)
    with replica(tmp_path) as store:
        assert pull(remote) == dict.fromkeys(tags, True)
        assert newest() == tags
        verify_all()
        assert {Path(bentoml.models.get(tag).path).stat().st_mode for tag in tags} == {store.stat().st_mode}
        assert {tag: (Path(bentoml.models.get(tag).path) / "openvino/model.bin").read_bytes() for tag in tags} == sent
        assert pull(remote) == dict.fromkeys(tags, False)
        assert sorted(path.name for path in (store.parent / ".models-registration").iterdir()) == ["lock"]


def test_what_is_there_is_neither_sent_nor_fetched(bucket: str, s3: S3Server, tmp_path: Path) -> None:
    def requests() -> list[str]:
        """Return the requests since the last call, without the listings."""
        seen[:], before = s3.requests(), len(seen)
        return [request.partition(" ")[0] for request in seen[before:] if "?delimiter=" not in request]

    seen = s3.requests()
    with training_machine(tmp_path):
        tags = train(tmp_path)
        push(bucket)
        assert requests() == ["PUT"] * 3
        push(bucket)
        assert requests() == []
    with replica(tmp_path):
        pull(bucket)
        assert requests() == ["GET"] * 3
        pull(bucket)
        assert requests() == []
        listed = s3.requests()
        pull(bucket, tags)
        assert s3.requests() == listed


def test_versions_in_the_store_need_no_network(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")  # nothing listens there
    with replica(tmp_path):
        tags = train(tmp_path)
        assert pull(bucket, tags) == dict.fromkeys(tags, False)
        with pytest.raises(TransferError, match=r"^s3://\S+: the server cannot be reached: check the network and AWS_ENDPOINT_URL, or"):
            pull(bucket)


@both
def test_the_newest_is_the_one_that_was_trained_last(remote: str, tmp_path: Path) -> None:
    with training_machine(tmp_path):
        (old,), (new,) = train(tmp_path, "llm"), train(tmp_path, "llm")
        assert push(remote, ["trigen-llm"]) == {new: True}
        assert push(remote, [old]) == {old: True}
    with replica(tmp_path):
        assert pull(remote, ["trigen-llm"]) == {new: True}
        assert pull(remote, [old]) == {old: True}
        assert newest() == [new]
    with store_in(tmp_path / "another"):
        assert pull(remote, [new, old]) == {new: True, old: True}
        assert newest() == [new]


@both
def test_two_pulls_at_once_fetch_once(remote: str, tmp_path: Path) -> None:
    with training_machine(tmp_path):
        tags = train(tmp_path)
        push(remote)
    with replica(tmp_path), ThreadPoolExecutor() as pool:
        first, second = pool.map(pull, [remote, remote])
        assert {tag: sorted((first[tag], second[tag])) for tag in tags} == {tag: [False, True] for tag in tags}
        assert newest() == tags
        verify_all()


def test_the_archives_are_bentomls(tmp_path: Path) -> None:
    with training_machine(tmp_path):
        tags = train(tmp_path)
        push(str(tmp_path / "stick"))
    with replica(tmp_path):
        for archive in (tmp_path / "stick").rglob("*.tar"):
            bentoml.models.import_model(str(archive))  # as `bentoml models import` does
        assert newest() == tags


def shortened(archive: Path) -> None:
    os.truncate(archive, archive.stat().st_size // 2)


def emptied(archive: Path) -> None:
    os.truncate(archive, 0)


def changed(archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content.replace(content[9000:9100], bytes(100)))  # in model.bin, whose 20,000 bytes are most of the archive


def exchanged(archive: Path) -> None:
    other = next(path for path in archive.parent.parent.rglob("*.tar") if path != archive)
    shutil.copy(other, archive)


def not_an_archive(archive: Path) -> None:
    archive.write_text("<html>" + "not found " * 1000)


@pytest.mark.parametrize("damage", [shortened, emptied, changed, exchanged, not_an_archive])
def test_a_damaged_archive_is_refused_and_nothing_is_registered(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    with training_machine(tmp_path):
        *_, llm = train(tmp_path)
        push(str(tmp_path / "stick"))
    (archive,) = (tmp_path / "stick/trigen-llm").iterdir()
    damage(archive)
    with replica(tmp_path) as store:
        with pytest.raises(DamagedModel, match=rf"^{llm} in {archive} is damaged: .+\. Delete it there, and push it again$"):
            pull(str(tmp_path / "stick"))
        assert bentoml.models.list() == []
        assert sorted(path.name for path in (store.parent / ".models-registration").iterdir()) == ["lock"]


def test_a_damaged_model_is_not_pushed(tmp_path: Path) -> None:
    with training_machine(tmp_path):
        (tag,) = train(tmp_path, "llm")
        os.truncate(Path(bentoml.models.get(tag).path) / "openvino/model.bin", 1)
        with pytest.raises(DamagedModel, match=r"openvino/model\.bin has 1 bytes instead of 20000"):
            push(str(tmp_path / "stick"), [tag])
    assert not list((tmp_path / "stick").rglob("*.tar"))


@pytest.mark.parametrize("action", ["push", "pull"])
@pytest.mark.parametrize(
    ("environment", "url", "message"),
    [
        ({}, "s3://no-such-bucket/models", "there is no such bucket: create it, or correct the URL"),
        ({"AWS_ACCESS_KEY_ID": ""}, "s3://bucket", "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://bucket", "the server cannot be reached: check the network and AWS_ENDPOINT_URL"),
        ({}, "trigen-llm:latest", "this is a model: write the bucket or the directory before it"),
        ({}, "ftp://bucket", "this is no place for models: write s3://BUCKET/PREFIX or the path of a directory"),
    ],
)
@pytest.mark.usefixtures("store", "bucket")
def test_errors_say_what_to_do(
    action: str,
    environment: dict[str, str],
    url: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    tags = [] if action == "push" else ["trigen-llm"]
    assert main([action, url, *tags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {url}: ")
    assert message in line


def test_a_refused_key_says_what_to_do(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="0") as server:  # it knows no key
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TransferError, match=r"^s3://bucket: access is denied: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
            pull("s3://bucket")


def test_what_cannot_be_found_is_named(tmp_path: Path, store: Path) -> None:
    stick = str(tmp_path / "stick")
    with pytest.raises(TransferError, match="there is no such directory: correct the path"):
        pull(stick)
    (bigram,) = train(tmp_path, "bigram")
    push(stick, ["trigen-bigram"])
    with pytest.raises(TransferError, match=r"there is no trigen-rnn \(it holds no version of it\): push it there with"):
        pull(stick)
    with pytest.raises(TransferError, match=rf"there is no trigen-bigram:x \(it holds {bigram.partition(':')[2]}\): push it there with"):
        pull(stick, ["trigen-bigram:x"])
    with pytest.raises(TransferError, match="gpt-4:x is none of the models trigen-bigram, trigen-rnn, trigen-llm"):
        pull(stick, ["gpt-4:x"])
    with pytest.raises(NotFound, match=r"no trigen-llm in the model store"):
        push(stick, ["trigen-llm"])


def test_a_version_beside_those_of_a_bento_is_found(tmp_path: Path, store: Path) -> None:
    """In an image, BentoML's store is the one that was packed; what was pulled is in BENTOML_HOME."""
    (pulled,) = train(tmp_path, "llm")
    version = pulled.partition(":")[2]
    (tmp_path / "bento/models").mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(tmp_path / "bento/models"))
    (packed,) = train(tmp_path, "llm")
    assert str(require("trigen-llm").tag) == packed
    assert str(require("trigen-llm", version).tag) == pulled
    with pytest.raises(
        NotFound, match=r"no trigen-llm:x in the model store, which holds \w+, \w+: fetch it with `python -m models\.store pull"
    ):
        require("trigen-llm", "x")
