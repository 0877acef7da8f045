"""A new version of the LLM goes out through a bucket, blue/green, and back: two real services of one replica, side by side."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.store import TAGS
from models.store.registration import Artifact, register
from tests.conftest import Server, Trained, run, serve
from tests.models.store.conftest import S3Server, store_in

pytestmark = pytest.mark.slow


def served_tags(server: Server) -> dict[str, str]:
    """Return the tags of the served models by model name, after all places that name them have agreed."""
    info = {name: model["tag"] for name, model in httpx.get(f"{server.url}/info").json()["models"].items()}
    assert info == {model["id"]: model["owned_by"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}
    metrics = httpx.get(f"{server.url}/metrics").text
    assert all(f'trigen_model_info{{model_name="{name}",tag="{tag}"}} 1.0' in metrics for name, tag in info.items())
    request = {"start_word": "The", "length": 1}
    assert httpx.post(f"{server.url}/generate_with_llm", json=request, timeout=60).json()["model"] == info["llm"]
    return info


@pytest.fixture
def versions(trained: Trained, s3: S3Server, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two versions of the LLM in the store of a training machine."""
    shutil.copytree(trained.home / "bentoml/models", tmp_path / "training/models")
    with store_in(tmp_path / "training") as store:
        (old,) = (path.name for path in (store / TAGS["llm"]).iterdir() if path.is_dir())
        copy = shutil.copytree(store / TAGS["llm"] / old, tmp_path / "retrained", ignore=shutil.ignore_patterns("model.yaml"))
        (new,) = register({"llm": Artifact(copy, {"seed": 2})})
        yield old, new.partition(":")[2]


def test_a_version_goes_out_and_back(versions: tuple[str, str], trained: Trained, s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.make_bucket("rollout") + "/models"
    old, new = versions
    replica = Trained(tmp_path / "replica", tmp_path, "")
    (replica.home / "bentoml").mkdir(parents=True)

    def store(action: str, *tags: str, home: Path = replica.home / "bentoml") -> str:
        done = run(["-m", "models.store", action, bucket, *tags], tmp_path, BENTOML_HOME=str(home), **s3.environment())
        assert done.returncode == 0, done.stderr
        return done.stdout

    training = tmp_path / "training"
    store("push", "trigen-bigram", "trigen-rnn", f"trigen-llm:{old}", home=training)
    assert f"trigen-llm:{old} fetched from {bucket}" in store("pull")
    with serve(replica, tmp_path / "blue", TRIGEN_LLM_VERSION=old) as blue:
        assert served_tags(blue)["llm"] == f"trigen-llm:{old}"
        assert store("push", "trigen-llm", home=training) == f"trigen-llm:{new} copied to {bucket}\n"
        assert store("pull", f"trigen-llm:{new}") == f"trigen-llm:{new} fetched from {bucket}\n"
        with serve(replica, tmp_path / "green", TRIGEN_LLM_VERSION=new) as green:
            assert served_tags(green) == served_tags(blue) | {"llm": f"trigen-llm:{new}"}
        assert served_tags(blue)["llm"] == f"trigen-llm:{old}"
    with serve(replica, tmp_path / "back", TRIGEN_LLM_VERSION=old) as back:  # the store's newest is the new one
        assert served_tags(back)["llm"] == f"trigen-llm:{old}"


def test_a_bento_serves_a_version_that_was_pulled(versions: tuple[str, str], trained: Trained, tmp_path: Path) -> None:
    """An image is a Bento with its models beside it: see BentoML's `construct_containerfile`."""
    old, new = versions
    training = str(tmp_path / "training")
    done = run(["-m", "bentoml", "build", "--output", "tag"], tmp_path, BENTOML_HOME=training, TRIGEN_LLM_VERSION=old)
    assert done.returncode == 0, done.stderr
    (bento,) = (path for path in (tmp_path / "training/bentos/trigen").iterdir() if path.is_dir())
    for name in TAGS.values():
        version = old if name == "trigen-llm" else (tmp_path / "training/models" / name / "latest").read_text()
        shutil.copytree(tmp_path / "training/models" / name / version, bento / "models" / name / version)
    home = Trained(tmp_path / "volume", tmp_path, "")
    shutil.copytree(tmp_path / "training/models/trigen-llm" / new, home.home / "bentoml/models/trigen-llm" / new)
    with serve(home, tmp_path / "packed", service=[str(bento)]) as packed:
        assert served_tags(packed)["llm"] == f"trigen-llm:{old}"
    with serve(home, tmp_path / "pulled", service=[str(bento)], TRIGEN_LLM_VERSION=new) as pulled:
        assert served_tags(pulled)["llm"] == f"trigen-llm:{new}"
