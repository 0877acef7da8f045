"""The names that exist: files, flags, settings, routes and make targets, each read from its source."""

import dataclasses
import json
import re
import subprocess
from functools import cache
from pathlib import PurePosixPath

from generate import Options
from serving.settings import Settings
from tests.conftest import PROJECT
from tests.docs.markdown import Document
from training.config import Config

OTHER_ROUTES = {"/", "/docs", "/docs.json", "/healthz", "/metrics", "/ui"}
"""Routes that the OpenAPI document does not describe: the web page, the reference, and what BentoML adds."""
FOREIGN_FLAGS = {
    "accelerate": {
        "--cpu",
        "--multi_gpu",
        "--num_machines",
        "--num_processes",
        "--machine_rank",
        "--main_process_ip",
        "--main_process_port",
    },
    "bentoml": {"--host", "--port", "--timeout-graceful-shutdown"},
    "docker": {"--cap-drop", "--cpuset-cpus", "--detach", "--file", "--no-deps", "--read-only", "--rm", "--tmpfs", "--user"},
    "helm": {"--install", "--set"},
    "hf": {"--exclude", "--local-dir", "--private"},
    "kubectl": {"--from-file"},
    "lm_eval": {"--include_path", "--model", "--model_args", "--tasks"},
    "npx": {"--prefix"},
    "opt_in_out": {"--opt_out"},  # OpenVINO's
    "tensorboard": {"--logdir"},
    "torchrun": {
        "--max-restarts",
        "--nnodes",
        "--nproc-per-node",
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--rdzv-id",
        "--shutdown-timeout",
    },
}
"""The flags of other programs that the documents use."""


@cache
def project_files() -> list[str]:
    """The files of the project, except those that git ignores."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for path in listed if (PROJECT / path).exists()]


@cache
def documents() -> dict[str, Document]:
    return {path: Document(path, (PROJECT / path).read_text()) for path in project_files() if path.endswith(".md")}


@cache
def exists(path: str) -> bool:
    """Whether a file or directory is part of the project, or is generated and ignored by git."""
    if path == "." or any(file == path or file.startswith(f"{path}/") for file in project_files()):
        return True
    return subprocess.run(["git", "check-ignore", path, f"{path}/"], cwd=PROJECT, capture_output=True).returncode == 0


@cache
def knows_name(path: str) -> bool:
    """Whether a file has this name, or the sources mention it because they write it."""
    if any(f"/{file}".endswith(f"/{path}") for file in project_files()):
        return True
    sources = [file for file in project_files() if file.endswith((".py", "Makefile", ".yaml")) and not file.startswith("tests/")]
    name = re.compile(rf"(?<![\w.-]){re.escape(PurePosixPath(path).name)}(?![\w-])")
    return not path.endswith(".py") and any(name.search((PROJECT / file).read_text()) for file in sources)


@cache
def tools() -> dict[str, set[str]]:
    """The flags of `train.py`, `generate.py`, each program that uses argparse, the make targets that pass flags on, and other programs."""
    known = {name: set(flags) for name, flags in FOREIGN_FLAGS.items()}
    known["podman"] = known["docker"]
    for program, configuration in (("train.py", Config), ("generate.py", Options)):
        fields = {field.name.replace("_", "-"): field.type for field in dataclasses.fields(configuration)}
        negated = (f"--no-{name}" for name, kind in fields.items() if kind is bool)
        known[program] = {"--help", *(f"--{name}" for name in fields), *negated}
    for file in project_files():
        if file.endswith(".py") and not file.startswith("tests/") and (flags := re.findall(r'add_argument\(\s*"(--[\w-]+)"', source(file))):
            module = file.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
            known[file] = known[module] = {"--help", *flags}
    for target, recipe in re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)*)", source("Makefile"), re.MULTILINE):
        for program in re.findall(r"([\w./]+) \$\((?:BENCH|RUN|TRAIN)\)", recipe):
            known[f"make {target}"] = known.get(program, set())
    return known


@cache
def source(path: str) -> str:
    return (PROJECT / path).read_text()


@cache
def targets() -> set[str]:
    """The targets of the Makefile, with variables expanded."""
    database = subprocess.run(["make", "-rpq", "help"], cwd=PROJECT, capture_output=True, text=True).stdout
    return set(re.findall(r"^([\w./-]+):(?!=)", database, re.MULTILINE))


def settings() -> set[str]:
    return {f"TRIGEN_{name.upper()}" for name in Settings.model_fields}


def routes() -> set[str]:
    return set(json.loads(source("docs/openapi.json"))["paths"])


def folders() -> set[str]:
    return {path.partition("/")[0] for path in project_files() if "/" in path}
