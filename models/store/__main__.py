"""Prints which models are missing from the model store, or moves models between the store and a bucket or directory."""

import argparse
import sys
from collections.abc import Sequence

from bentoml.exceptions import BentoMLException

from models.store import TAGS, find
from models.store.archives import pull, push

ACTIONS = {"push": (push, "copied to"), "pull": (pull, "fetched from")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Returns exit status 0 if no model is missing; `make serve` relies on it. With an action, 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m models.store", description="Without an action, print which models are missing.")
    actions = parser.add_subparsers(dest="action", metavar="{push,pull}")
    for action, summary in (("push", "copy models from the store"), ("pull", "copy models into the store")):
        command = actions.add_parser(action, help=summary, description=f"{summary.capitalize()}. Versions that are there are not copied.")
        command.add_argument("url", metavar="URL", help="a bucket, as in s3://BUCKET/PREFIX, or a directory")
        command.add_argument("tags", metavar="TAG", nargs="*", help="NAME or NAME:VERSION; without any, the newest of all three models")
    chosen = parser.parse_args(arguments)
    return _transfer(chosen.action, chosen.url, chosen.tags) if chosen.action else _print_missing()


def _print_missing() -> int:
    missing = [tag for name, tag in TAGS.items() if find(name) is None]
    print(f"missing from the model store: {', '.join(missing)}" if missing else "the model store holds all three models")
    return 1 if missing else 0


def _transfer(action: str, url: str, tags: Sequence[str]) -> int:
    transfer, done = ACTIONS[action]
    try:
        for tag, copied in transfer(url, tags).items():
            print(f"{tag} {done} {url}" if copied else f"{tag} is there already")
    except (BentoMLException, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
