"""The trained models in the BentoML model store: finding them there, and checking that their files are those that were registered.

`registration.py` puts them there, `archives.py` moves them to other stores. `python -m models.store` prints which are missing.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from bentoml import Model
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import NotFound
from bentoml.models import BentoModel

from models.store.checksums import ADVICE, DamagedModel, verify
from models.store.transaction import recover

logger = logging.getLogger("bentoml.trigen.store")

TAGS = {"bigram": "trigen-bigram", "rnn": "trigen-rnn", "llm": "trigen-llm"}
"""The name under which the store keeps the versions of each model."""
LATEST = "latest"
"""The version that stands for the newest one."""


def find(name: str) -> Model | None:
    """Return the newest version of the model `name` (`bigram`, `rnn` or `llm`) in the store, or None."""
    recover()
    return _get(BentoMLContainer.model_store.get(), TAGS[name], LATEST)


def require(tag_name: str, version: str = LATEST) -> Model:
    """Return a version of a model, or its newest.

    Raises NotFound, which names the command that trains or fetches it, or `DamagedModel` if its description cannot be read.
    """
    recover()
    for store in _stores():
        if version in (LATEST, *_versions(store, tag_name)) and (model := _get(store, tag_name, version)):
            return model
    held = versions(tag_name)
    if not held:
        train = "run `make serve` or `python train.py --preset quickstart` to train it"
        raise NotFound(f"no {tag_name} in the model store: {train}, or `python -m models.store pull URL` to fetch it")
    fetch = f"fetch it with `python -m models.store pull URL {tag_name}:{version}`"
    raise NotFound(f"no {tag_name}:{version} in the model store, which holds {', '.join(held)}: {fetch}")


def versions(tag_name: str) -> list[str]:
    """Return the versions of a model in the store."""
    recover()
    return sorted({version for store in _stores() for version in _versions(store, tag_name)})


def verify_all(chosen: Mapping[str, str] | None = None) -> None:
    """Check every model against its checksums, and warn of those that have none.

    `chosen` gives versions by model name; of the other models it is the newest. Raises `DamagedModel`, or NotFound if a model is missing.
    """
    for name, tag_name in TAGS.items():
        model = require(tag_name, (chosen or {}).get(name, LATEST))
        if not verify(model):
            logger.warning("%s was registered without checksums, so its files are not verified", model.tag)


class TrigenModel(BentoModel):
    """A model, declared as a class attribute of the service.

    BentoML packs it into the Bento and resolves it when the service starts. If it is missing, the service fails to start, with one line
    naming the command that trains or fetches it.
    """

    def __init__(self, name: str, chosen: Callable[[], Mapping[str, str]] = dict) -> None:
        """`chosen` returns versions by model name when the model is resolved. The default is the newest."""
        super().__init__(f"{TAGS[name]}:{LATEST}")
        object.__setattr__(self, "_version", lambda: chosen().get(name, LATEST))  # the class is frozen

    @property
    def stored(self) -> Model:
        """See `BentoModel`, whose other methods call it. Raises as `require` does."""
        return require(self.tag.name, self._version())


def _stores() -> list[ModelStore]:
    """Return where a version may be: in BentoML's store or, in an image, whose store holds what was packed, in that of BENTOML_HOME."""
    return [BentoMLContainer.model_store.get(), ModelStore(BentoMLContainer.model_store_dir.get())]


def _versions(store: ModelStore, tag_name: str) -> list[str]:
    directory = Path(store._path) / tag_name
    return [path.name for path in directory.iterdir() if path.is_dir()] if directory.is_dir() else []


def _get(store: ModelStore, tag_name: str, version: str) -> Model | None:
    """Return a version of a model or the newest, or None. Raises `DamagedModel` if its description cannot be read."""
    try:
        model: Model = store.get(f"{tag_name}:{version}")
    except NotFound:
        return None
    except Exception as error:  # of many types: BentoML lets those of the YAML parser and of its converters through
        which = f"the newest {tag_name}" if version == LATEST else f"{tag_name}:{version}"
        raise DamagedModel(f"{which} in the model store is damaged: its model.yaml cannot be read. {ADVICE}") from error
    return model
