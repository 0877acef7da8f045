"""Packs the models of an image into a BentoML home of its own: `python -m models.store.image HOME ENGINE`.

`make image` builds the Bento from that home. The LLM's artifact holds the weights of both engines, of which an image needs one.
"""

import shutil
import sys
from pathlib import Path

import yaml

from models.engines import UNREAD_FILES
from models.store import TAGS, TrigenModel
from models.store.checksums import DESCRIPTION, KEY, verify


def pack(home: Path, engine: str) -> list[str]:
    """Copy the newest version of each model into the model store of the BentoML home `home`, which is emptied first. Returns their tags.

    Files that the LLM's `engine` does not read are left out, and so are their checksums. Raises `DamagedModel`, or NotFound if a model is
    missing.
    """
    shutil.rmtree(home, ignore_errors=True)
    return [_pack(name, home / "models", engine) for name in TAGS]


def _pack(name: str, store: Path, engine: str) -> str:
    model = TrigenModel(name).resolve()
    verify(model)
    source = Path(model.path)
    target = store / source.parent.name / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*UNREAD_FILES[engine]) if name == "llm" else None)
    description = yaml.safe_load((target / DESCRIPTION).read_text())
    if files := description["metadata"].get(KEY):
        description["metadata"][KEY] = {file: entry for file, entry in files.items() if (target / file).exists()}
        (target / DESCRIPTION).write_text(yaml.safe_dump(description))
    (target.parent / "latest").write_text(target.name)
    return str(model.tag)


if __name__ == "__main__":
    print(*pack(Path(sys.argv[1]), sys.argv[2]))
