"""Packs the models of an image: `python -m models.store.packing HOME ENGINE` makes a BentoML home with what the LLM's engine reads of them."""

import shutil
import sys
from pathlib import Path

import yaml
from bentoml.exceptions import NotFound

from models.engines import UNREAD_FILES
from models.store import TAGS, find
from models.store.checksums import DESCRIPTION, KEY, verify


def pack(home: Path, engine: str) -> list[str]:
    """Copy the newest version of each model into the model store of the BentoML home `home`, which is emptied first. Returns their tags.

    Files that the LLM's `engine` does not read are left out, and so are their checksums. Raises `DamagedModel`, or NotFound if a model is
    missing.
    """
    shutil.rmtree(home, ignore_errors=True)
    return [_pack(name, home / "models", engine) for name in TAGS]


def _pack(name: str, store: Path, engine: str) -> str:
    model = find(name)
    if model is None:
        raise NotFound(f"no {TAGS[name]} in the model store")
    verify(model)
    target = store / model.tag.name / model.tag.version
    shutil.copytree(model.path, target, ignore=shutil.ignore_patterns(*UNREAD_FILES[engine]))
    description = yaml.safe_load((target / DESCRIPTION).read_text())
    if files := description["metadata"].get(KEY):
        description["metadata"][KEY] = {file: entry for file, entry in files.items() if (target / file).exists()}
        (target / DESCRIPTION).write_text(yaml.safe_dump(description))
        shutil.copystat(Path(model.path) / DESCRIPTION, target / DESCRIPTION)  # the same time, so that the image's layer is the same
    (target.parent / "latest").write_text(model.tag.version)
    return str(model.tag)


if __name__ == "__main__":
    print(*pack(Path(sys.argv[1]), sys.argv[2]))
