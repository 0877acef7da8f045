"""Run each contestant of a benchmark in a separate process, so that none inherits another's memory, threads or caches."""

import json
import subprocess
import sys
from typing import Any


def run_contestant(module: str, name: str, *flags: str) -> dict[str, Any]:
    """Run `python -m MODULE --contestant NAME FLAGS` and return the JSON object on the last line that it prints."""
    command = [sys.executable, "-m", module, "--contestant", name, *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
