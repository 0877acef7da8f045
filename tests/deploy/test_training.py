"""`deploy/training` starts the run as docs/training.md does, and is right by the schemas of Kubernetes and by shellcheck."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import PROJECT
from training.config import parse

JOB, SCRIPT = PROJECT / "deploy/training/job.yaml", PROJECT / "deploy/training/slurm.sh"
OWN = {"--nnodes", "--rdzv-endpoint", "--rdzv-id", "--shutdown-timeout"}
"""The launcher's flags whose values differ between a document, a Job and a script."""


def launcher_flags(words: list[str]) -> set[str]:
    """Return the flags before `train.py`, with their values unless they are in `OWN`."""
    text = " ".join(words[: words.index("train.py")]).replace("=", " ")
    return {name if name in OWN else f"{name} {value}" for name, value in re.findall(r"(--[\w-]+) (\S+)", text)} - {"--shutdown-timeout"}


def test_all_start_the_same_launcher() -> None:
    document = re.findall(r"torchrun --nnodes 2 .* train\.py", (PROJECT / "docs/training.md").read_text())[0].split()
    job = list(yaml.safe_load_all(JOB.read_text()))[-1]["spec"]["template"]["spec"]["containers"][0]
    script = re.search(r"^srun .*?&$", SCRIPT.read_text().replace("\\\n", ""), re.MULTILINE)
    assert script
    assert launcher_flags(job["args"]) == launcher_flags(shlex.split(script[0])[2:]) == launcher_flags(document)
    assert parse(job["args"][job["args"].index("train.py") + 1 :]).resume


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("shellcheck", [str(SCRIPT)]), ("kubernetes-validate", ["--strict", str(JOB)])],
    ids=["shellcheck", "kubernetes-validate"],
)
def test_the_files_pass_their_checkers(program: str, arguments: list[str]) -> None:
    found = shutil.which(program) or shutil.which(program, path=PROJECT / ".venv-deploy/bin")
    if not found:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([found, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
