"""Other tools against the service: schemathesis, lm-eval, openapi-generator and TypeScript, outside the project's environment."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.random_base import save_random_gpt2
from tests.conftest import PROJECT, Server, Trained, serve, train

pytestmark = pytest.mark.slow

TOOLS = PROJECT / ".venv-contract/bin"
EXAMPLES_FOR_EACH_OPERATION = 500


def command(*words: str | Path, timeout: float = 3600, cwd: Path = PROJECT, **environment: str) -> str:
    """Run a tool and return its output."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a long timeout, whose LLM has room for every prompt that the document allows."""
    home = tmp_path_factory.mktemp("roomy")
    save_random_gpt2(home / "base", 1000, vocab_size=1000, n_positions=32_768, n_embd=64, n_layer=2, n_head=2)
    with serve(train(home / "base", home), home / "log", TRIGEN_TIMEOUT_SECONDS="3600") as running:
        yield running


def test_schemathesis_finds_no_violation(roomy: Server, tmp_path: Path) -> None:
    printed = command(
        TOOLS / "schemathesis",
        "run",
        *("--checks", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES_FOR_EACH_OPERATION)),
        *("--request-timeout", "3600", "--max-response-time", "3600", "--url", roomy.url, f"{roomy.url}/docs.json"),
        timeout=4 * 3600,
        cwd=tmp_path,
        SCHEMATHESIS_HOOKS="tests.clients.schemathesis_hooks",
        PYTHONPATH=str(PROJECT),
    )
    assert re.search(r"Tested: 10\b", printed), printed
    assert "Traceback" not in roomy.log.read_text()


def test_openapi_generator_generates_a_java_client(tmp_path: Path) -> None:
    if not shutil.which("java"):
        pytest.skip("openapi-generator needs java")
    printed = command(
        TOOLS / "openapi-generator-cli", "generate", "-g", "java", "-i", PROJECT / "docs/openapi.json", "-o", tmp_path / "java"
    )
    warnings = [line for line in printed.splitlines() if "WARN" in line]
    # Every OpenAPI 3.1 document gets this warning: https://github.com/OpenAPITools/openapi-generator/issues/9083
    assert all("OpenAPI 3.1 support is still in beta" in line for line in warnings), printed
    assert (tmp_path / "java/src/main/java/org/openapitools/client/api/GenerationApi.java").exists()


def test_the_typescript_client_is_strict_and_its_example_runs(server: Server) -> None:
    if not shutil.which("npm"):
        pytest.skip("the TypeScript client needs npm")
    command("make", "client-typescript", timeout=1800)
    printed = command("npx", "--prefix", "clients/typescript", "tsx", "examples/typescript_client.mts", server.url)
    assert "text: The" in printed
    assert "problem: 422" in printed
    assert re.search(r"finish_reason: (length|stop)", printed)
    assert "info: trigen-llm:" in printed


def lm_eval(server: Server, model: str, task: str, output: Path, data: Path | None, **arguments: str) -> dict[str, float]:
    """Return the metrics of a task on up to forty rows."""
    include = PROJECT / "examples/lm_eval"
    if data:  # the same task on other rows
        described = (include / f"{task}.yaml").read_text()
        described = described.replace("dataset_path: json", "dataset_path: parquet")
        described = re.sub(r"validation: data/quickstart\S+", f"validation: {data}", described)
        (output / "tasks").mkdir(parents=True, exist_ok=True)
        (output / "tasks" / f"{task}.yaml").write_text(described)
        shutil.copy(include / "squad2.py", output / "tasks")
        include = output / "tasks"
    model_arguments = {"model": model, "base_url": f"{server.url}/v1/completions", "num_concurrent": "4", "max_length": "768"} | arguments
    command(
        TOOLS / "lm_eval",
        *("--model", "local-completions", "--model_args", ",".join(f"{name}={value}" for name, value in model_arguments.items())),
        *("--include_path", include, "--tasks", f"trigen_{task}", "--limit", "40", "--output_path", output / model / task),
        HF_HUB_OFFLINE="1",
        HF_HOME=str(output / "huggingface"),
    )
    (results,) = (output / model / task).rglob("results_*.json")
    metrics: dict[str, float] = json.loads(results.read_text())["results"][f"trigen_{task}"]
    assert json.loads(results.read_text())["n-samples"][f"trigen_{task}"]["effective"] == 40
    return metrics


@pytest.mark.parametrize("rows", ["quickstart", "squad", "squad2"])
def test_lm_eval_evaluates_the_models(server: Server, trained: Trained, tmp_path: Path, rows: str) -> None:
    data = None if rows == "quickstart" else next((PROJECT.parent / "shared/data" / rows).glob("validation*.parquet"), None)
    if rows != "quickstart" and not data:
        pytest.skip("SQuAD is not in ../shared/data")
    tokenizer, before = str(trained.output / "llm"), server.log.read_text()
    likelihood = lm_eval(server, "llm", "answer_likelihood", tmp_path, data, tokenizer=tokenizer)
    assert 1 < likelihood["perplexity,none"] < float("inf")
    assert 0 <= likelihood["acc,none"] <= 1
    assert 0 <= lm_eval(server, "llm", "answers", tmp_path, data, tokenizer=tokenizer)["exact_match,stripped"] <= 1
    squad2 = lm_eval(server, "llm", "squad2", tmp_path, data, tokenizer=tokenizer)
    assert 0 <= squad2["exact_match,none"] <= squad2["f1,none"] <= 1
    assert 0 <= squad2["has_answer_exact_match,none"] <= 1
    if rows == "squad2":
        assert 0 <= squad2["no_answer_exact_match,none"] <= 1
        assert 0 <= lm_eval(server, "llm", "no_answer", tmp_path, data, tokenizer=tokenizer)["auc,none"] <= 1
    for model in ("bigram", "rnn"):
        answers = lm_eval(server, model, "answers", tmp_path, data, tokenizer_backend="None", tokenized_requests="False")
        assert 0 <= answers["exact_match,stripped"] <= 1
    # No request was refused, except for tokenizer_info, a route that lm-eval tries and the service does not have.
    assert "(status=4" not in re.sub(r".*tokenizer_info.*\n", "", server.log.read_text().removeprefix(before))
