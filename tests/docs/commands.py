"""Run the code blocks of a document, and compare their output with the output that the document shows."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.docs.markdown import MARK, Block, Document

URL = "http://127.0.0.1:3000"
RUNNABLE = ("sh", "python")
REASONS = {
    "slow": r"train\.py|make (serve|test|train|report|bench-)|lm_eval|benchmarks[./]",
    "hub": r"^(?!.*--preset quickstart)(?!(?=.*--base-model smollm2).*--dataset data/).*(train\.py|make train\b)",
    "gpu": r"accelerate launch|torchrun|--multi_gpu",
    "container": r"docker|podman|make image",
}
"""The reasons to skip a block, each with a pattern of the commands that justify it."""
SERVE_UNTIL_READY = f"make serve & until curl -sf {URL}/readyz; do sleep 1; kill -0 $!; done; kill $!; wait $! || true"


def needless_skips(document: Document) -> Iterator[str]:
    """Find marks without a block or a valid reason. One slow command makes a block slow; any other reason must hold for every command."""
    marked = [block for block in document.blocks if block.skip and block.language in RUNNABLE]
    if document.text.count(MARK) != len(marked):
        yield f"{document.path}: a mark is wrong: write `{MARK} skip REASON -->` on the line before ```sh or ```python"
    for block in marked:
        if not (reason := REASONS.get(block.skip or "")):
            yield block.fault(f"{block.skip} is no reason to skip a block: take one of {', '.join(REASONS)}")
            continue
        needs = [bool(re.search(reason, line.text)) for line in block.lines if not line.text.startswith(("#", "source "))]
        if not (any(needs) if block.skip == "slow" else all(needs)):
            yield block.fault(f"not all of this block needs to be skipped ({block.skip}): divide it, so that the rest is tested")


def shown_answers(document: Document) -> dict[Block, str]:
    """Return the answer shown below each block that calls curl: JSON, or a stream."""
    return {
        block: shown.text
        for block, shown in pairwise(document.blocks)
        if "curl" in block.text
        and (shown.language == "json" or shown.text.startswith("data: "))
        and shown.line - block.line - block.text.count("\n") == 2
    }


def answers(text: str) -> list[Any]:
    """Parse the JSON values in `text`; from a stream, only the last one. Raises ValueError if anything else is in it."""
    stream = text.startswith("data: ")
    rest = re.sub(r"^data: (\[DONE\])?", "", text, flags=re.MULTILINE).strip()
    values, decoder = [], json.JSONDecoder()
    while rest:
        value, end = decoder.raw_decode(rest)
        values.append(value)
        rest = rest[end:].lstrip()
    return values[-1:] if stream else values


def keys(value: Any, path: str = "") -> set[str]:
    """Return the paths of all keys in a JSON value, except below `top_logprobs`, where the keys are tokens."""
    if isinstance(value, list):
        return set().union(*(keys(item, path) for item in value))
    if isinstance(value, dict) and not path.endswith(".top_logprobs"):
        return {f"{path}.{key}" for key in value}.union(*(keys(item, f"{path}.{key}") for key, item in value.items()))
    return set()


def run_block(block: Block, url: str, directory: Path, environment: Mapping[str, str], log: Path, seconds: float) -> str:
    """Run a block in `directory` against the service at `url` and return its stdout.

    Raises AssertionError unless the exit status is 0. The limit of `seconds` is for a block that hangs.
    """
    text = re.sub(r"^make serve\b", SERVE_UNTIL_READY, block.text, flags=re.MULTILINE).replace(URL, url)
    assert "3000" not in text, block.fault(f"address the service as {URL}, which the test replaces: port 3000 may be taken")
    words = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-e", "-c", text]
    with log.open("w") as out, log.with_suffix(".err").open("w") as err:
        process = subprocess.Popen(words, cwd=directory, env=environment, stdout=out, stderr=err, start_new_session=True)
        try:
            status = process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its background jobs
    assert status == 0, block.fault(f"exit status {status}; correct the block\n{log.with_suffix('.err').read_text()[-2000:]}")
    return log.read_text()
