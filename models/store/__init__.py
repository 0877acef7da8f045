"""The trained models in the BentoML model store: finding them there, and checking that their files are those that were registered.

`registration.py` puts them there. `python -m models.store` prints which are missing.
"""

import logging
from typing import Any

import bentoml
from bentoml import Model
from bentoml.exceptions import NotFound
from bentoml.models import BentoModel

from models.store.checksums import ADVICE, DamagedModel, verify
from models.store.transaction import recover

logger = logging.getLogger("bentoml.trigen.store")

TAGS = {"bigram": "trigen-bigram", "rnn": "trigen-rnn", "llm": "trigen-llm"}
"""The name under which the store keeps the versions of each model."""


def find(name: str) -> Model | None:
    """Return the newest version of the model `name` (`bigram`, `rnn` or `llm`) in the store, or None."""
    return _newest(TAGS[name])


def verify_all() -> None:
    """Check the newest version of every model against its checksums, and warn of those that have none.

    Raises `DamagedModel`, or NotFound if a model is missing.
    """
    for name in TAGS:
        model = TrigenModel(name).resolve()
        if not verify(model):
            logger.warning("%s was registered without checksums, so its files are not verified", model.tag)


class TrigenModel(BentoModel):
    """The newest version of a model, declared as a class attribute of the service.

    BentoML packs it into the Bento and resolves it when the service starts. If it is missing, the service fails to start, with one line
    naming the command that trains it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{TAGS[name]}:latest")

    def resolve(self, *args: Any, **kwargs: Any) -> Model:
        """See `BentoModel`. Raises `DamagedModel`, or NotFound, naming the command that trains the model."""
        self._require_stored()
        model: Model = super().resolve(*args, **kwargs)
        return model

    def to_info(self, *args: Any, **kwargs: Any) -> Any:
        """See `BentoModel`. Raises `DamagedModel`, or NotFound, naming the command that trains the model."""
        self._require_stored()
        return super().to_info(*args, **kwargs)

    def _require_stored(self) -> None:
        if _newest(self.tag.name) is None:
            raise NotFound(f"no {self.tag.name} in the model store: run `make serve` or `python train.py --preset quickstart` to train it")


def _newest(tag_name: str) -> Model | None:
    """Return the newest version under a tag's name, or None. Raises `DamagedModel` if its description cannot be read."""
    recover()
    try:
        model: Model = bentoml.models.get(tag_name)
    except NotFound:
        return None
    except Exception as error:  # of many types: BentoML lets those of the YAML parser and of its converters through
        raise DamagedModel(f"the newest {tag_name} in the model store is damaged: its model.yaml cannot be read. {ADVICE}") from error
    return model
