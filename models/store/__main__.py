"""Prints which models are missing from the model store: `python -m models.store`."""

import sys

from models.store import TAGS, find


def main() -> int:
    """Print which models are missing. Returns exit status 0 if none is; `make serve` relies on it."""
    missing = [tag for name, tag in TAGS.items() if find(name) is None]
    print(f"missing from the model store: {', '.join(missing)}" if missing else "the model store holds all three models")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
