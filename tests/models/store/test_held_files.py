"""A service whose models leave the store goes on, also where it reads a file late or again."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from models.base import SamplingParams, TextModel
from models.bigram import Bigram
from models.engines.supervision.engine import SupervisedEngine
from models.llm import LLM
from models.rnn import RNN
from models.store import TrigenModel
from models.store.held_files import PREFIX, HeldFiles
from tests.conftest import Trained, wait_until

PARAMS = SamplingParams(5, temperature=0, logprobs=1)


@pytest.fixture
def store(trained: Trained, tmp_path: Path) -> Iterator[Path]:
    """A copy of the store with the models of `trained`."""
    shutil.copytree(trained.home / "bentoml/models", tmp_path / "models")
    BentoMLContainer.model_store.set(ModelStore(tmp_path / "models"))
    yield tmp_path / "models"
    BentoMLContainer.model_store.reset()


def test_links_that_no_process_holds_are_removed_once_they_are_old() -> None:
    left, new = (Path(tempfile.mkdtemp(prefix=PREFIX)) for _ in range(2))
    (left / "file").symlink_to("/proc/0/fd/3")
    held = HeldFiles()
    for links in (left, held._links):
        os.utime(links, (0, 0))
    HeldFiles().close()
    assert not left.exists()
    assert new.exists()
    assert held._links.exists()
    held.close()
    new.rmdir()


def text(model: TextModel) -> str:
    """Generate with log-probabilities, also those of a prompt with a word outside the vocabulary, whose spelling has to be scored."""

    async def generate() -> str:
        async for _ in model.stream_with_prompt_logprobs("zzyzx", PARAMS):
            pass
        return "".join([token.text async for token in model.stream("The", PARAMS)])

    return asyncio.run(generate())


def test_models_generate_and_engines_are_replaced_after_the_store_was_emptied(store: Path, trained: Trained) -> None:
    files = HeldFiles()
    directories = {name: files.hold(TrigenModel(name).resolve()) for name in ("bigram", "rnn", "llm")}
    llm, rnn = LLM.load(directories["llm"], "openvino", reproducible=True), RNN.load(directories["rnn"])
    with closing(llm), closing(rnn):
        models: list[TextModel] = [Bigram.load(directories["bigram"]), rnn, llm]
        shutil.rmtree(store)
        texts = [text(model) for model in models]
        engines = [engine for engine in (llm.engine, rnn.engine) if isinstance(engine, SupervisedEngine)]
        for engine in engines:
            assert engine.process_id
            os.kill(engine.process_id, signal.SIGKILL)
        wait_until(lambda: [engine.restarts for engine in engines if engine.ready] == [1, 1], "both engines are replaced")
        assert [text(model) for model in models] == texts
    assert all(texts)
    files.close()
    assert not directories["llm"].parent.exists()
