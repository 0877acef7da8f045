"""The comparison of servers in miniature: a server, llama.cpp's converter and vLLM's client are fakes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serve
from benchmarks.serving import vllm_bench
from benchmarks.serving.client import LoadResult, Outcome, openai_sender
from benchmarks.serving.loads import NEW_TOKENS
from benchmarks.serving.report import Results, write
from benchmarks.serving.servers import Server
from tests.conftest import run

CELL = {
    "tokens_per_second": 100.0, "goodput": 1.5, "answers": 7, "cut_off": 1, "first_token_p50": 0.01, "first_token_p99": 0.02,
    "answer_p50": 0.5, "answer_p99": 0.6, "slowest_over_fastest": 0.9, "gb": 1.25,
}  # fmt: skip
VLLM_CELL = {"output_throughput": 1234.0, "request_goodput": 2.5, "p50_ttft_ms": 20.4, "p99_ttft_ms": 30.0, "p50_tpot_ms": 9.0}

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, b"")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        usage = {"choices": [{"text": "a"}], "usage": {"completion_tokens": body["max_tokens"]}}
        events = [{"choices": [{"text": "a"}]}, usage]
        data = "".join(f"data: {json.dumps(event, separators=(',', ':'))}\\n\\n" for event in events) + "data: [DONE]\\n\\n"
        self.answer(200 if self.headers["connection"] == "close" else 400, data.encode())

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

CONVERTER = {
    "conversion/base.py": """
import json

class ModelBase:
    @staticmethod
    def load_hparams(model, is_mistral_format):
        return json.loads((model / "config.json").read_text())

class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        if tokenizer == "unknown":
            raise NotImplementedError
        return tokenizer
""",
    "convert_hf_to_gguf.py": """
import json, sys
from pathlib import Path
from conversion.base import ModelBase, TextModel

def main():
    model, _, quantization, _, target = sys.argv[1:]
    pre_tokenizers = [TextModel().get_vocab_base_pre(name) for name in ("llama-bpe", "unknown")]
    Path(target).write_text(json.dumps([ModelBase.load_hparams(Path(model), False), pre_tokenizers, quantization]))
""",
}

VLLM = {
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser",
    "vllm/benchmarks/lib/endpoint_request_func.py": """
import json

def _update_payload_common(payload, request):
    payload.update(json.loads(request))

def complete(request):
    payload = {"repetition_penalty": 1.0, "logprobs": None, "prompt": "The"}
    _update_payload_common(payload, request)
    return payload
""",
    "vllm/benchmarks/serve.py": """
import json
from pathlib import Path
from types import SimpleNamespace
from .lib import endpoint_request_func

def add_cli_args(parser):
    for name in ("model", "base-url", "dataset-name", "dataset-path", "num-prompts", "temperature", "max-concurrency",
                 "ready-check-timeout-sec", "metric-percentiles", "result-filename", "extra-body", "served-model-name"):
        parser.add_argument("--" + name)
    parser.add_argument("--disable-tqdm", action="store_true")
    parser.add_argument("--save-result", action="store_true")
    parser.add_argument("--goodput", nargs="+")

def calculate_metrics(input_requests, outputs, tokenizer):
    return sum(output.output_tokens for output in outputs)

def main(arguments):
    assert endpoint_request_func.complete(arguments.extra_body) == {"prompt": "The"}
    rows = json.loads(Path(arguments.dataset_path).read_text())
    requests = [SimpleNamespace(expected_output_len=len(row["conversations"][1]["value"].split())) for row in rows]
    outputs = [SimpleNamespace(output_tokens=0) for _ in rows]
    metrics = dict.fromkeys(("request_goodput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "failed"), 0.0)
    metrics["completed"] = len(rows)
    metrics["output_throughput"] = calculate_metrics(requests, outputs, tokenizer=None)
    Path(arguments.result_filename).write_text(json.dumps(metrics | vars(arguments)))
""",
}


def write_files(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_goodput_counts_the_requests_that_meet_every_limit_of_their_load() -> None:
    good = Outcome(started=0.0, first_token=0.5, finished=2.0, events=16, tokens=16)  # exactly 0.1 s per token
    late = Outcome(started=0.0, first_token=1.5, finished=2.0, events=16, tokens=16)
    slow = Outcome(started=0.0, first_token=0.5, finished=2.5, events=16, tokens=16)
    unfinished = Outcome(started=0.0, first_token=0.5, events=16, tokens=16)
    summary = LoadResult(4.0, [good, late, slow, unfinished]).summary("completions")
    assert summary["tokens_per_second"] == 16
    assert summary["goodput"] == pytest.approx(1 / 3)  # one request per second has its tokens, a third of them in time
    assert LoadResult(4.0, [good, late, unfinished]).summary("questions")["goodput"] == 0  # none within 1 s
    assert LoadResult(4.0, [unfinished]).summary("completions")["goodput"] == 0


def test_a_peer_is_prepared_started_and_measured(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "CELLS", [("completions", 1), ("questions", 8)])
    program = write_files(tmp_path, {"server.py": SERVER}) / "server.py"
    server = Server(
        [sys.executable, str(program), "PORT"],
        "/health",
        openai_sender("model", keep_alive=False),
        preparation=[sys.executable, "-c", f"open({str(tmp_path / 'prepared')!r}, 'w')"],
    )
    comparison = serve.Comparison(tiny_base, tmp_path, 0.2, 2)
    comparison.measure_peer("peer", server)
    assert (tmp_path / "prepared").exists()
    assert 0 < comparison.results.starts["peer"]["ready"] < comparison.results.starts["peer"]["first_token"]
    assert comparison.results.starts["peer"]["gb"] > 0
    assert comparison.results.loads["peer"]["completions"][1]["answers"] > 0
    assert comparison.results.loads["peer"]["questions"][8]["goodput"] > 0
    assert comparison.results.vllm_bench == {}
    comparison.measure_peer("broken", Server(server.command, "/health", server.send, preparation=[sys.executable, "-c", "exit(3)"]))
    assert "broken: CalledProcessError: " in capsys.readouterr().err
    assert comparison.results.starts.keys() == {"peer"}


def test_vllms_client_gets_our_prompts_lengths_and_limits(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(write_files(tmp_path / "packages", VLLM)))
    monkeypatch.setattr(vllm_bench, "PROMPTS_PER_SECOND", {"completions": {1: 2, 8: 3}, "questions": {1: 4}})
    directory = tmp_path / "results"
    measured = vllm_bench.measure(Path(sys.executable), "http://server", tiny_base, ["--served-model-name", "llm"], 2, directory)
    assert {load: list(cells) for load, cells in measured.items()} == {"completions": [1, 8], "questions": [1]}
    assert measured["completions"][1]["completed"] == 4
    assert measured["completions"][8]["completed"] == 8  # at least one for each client
    assert NEW_TOKENS[0] <= measured["completions"][8]["output_throughput"] / 8 <= NEW_TOKENS[1]
    assert measured["questions"][1]["output_throughput"] == 8 * 6
    arguments: dict[str, Any] = json.loads((directory / "completions-8.json").read_text())
    assert arguments["goodput"] == ["ttft:1000.0", "tpot:100.0"]
    assert (arguments["base_url"], arguments["served_model_name"]) == ("http://server", "llm")
    prompts = [json.loads((directory / f"completions-{concurrency}-prompts.json").read_text()) for concurrency in (1, 8)]
    texts = [row["conversations"][0]["value"] for rows in prompts for row in rows]
    assert len(set(texts)) == 12


def test_the_converter_learns_what_it_does_not_know(tmp_path: Path) -> None:
    sources = write_files(tmp_path / "sources", CONVERTER)
    model = write_files(tmp_path / "model", {"config.json": '{"model_type": "gpt2", "n_positions": 768}'})
    done = run(["-m", "benchmarks.serving.gguf", str(sources), str(model), str(tmp_path / "model.gguf")], tmp_path)
    assert done.returncode == 0, done.stderr
    config, pre_tokenizers, quantization = json.loads((tmp_path / "model.gguf").read_text())
    assert config == {"model_type": "gpt2", "n_positions": 768, "n_ctx": 768}
    assert (pre_tokenizers, quantization) == (["llama-bpe", "gpt-2"], "q8_0")


def test_an_unknown_tokenizer_of_another_architecture_is_not_taken_for_gpt2s(tmp_path: Path) -> None:
    sources = write_files(tmp_path / "sources", CONVERTER)
    model = write_files(tmp_path / "model", {"config.json": '{"model_type": "llama"}'})
    done = run(["-m", "benchmarks.serving.gguf", str(sources), str(model), str(tmp_path / "model.gguf")], tmp_path)
    assert "NotImplementedError" in done.stderr
    assert done.returncode == 1
    assert not (tmp_path / "model.gguf").exists()


def test_the_report_has_a_table_for_each_part_that_was_measured(tmp_path: Path) -> None:
    results = Results(loads={name: {"completions": {8: CELL}} for name in ("trigen", "llama.cpp")})
    results.loads["llama.cpp"]["completions"][8] = CELL | {"tokens_per_second": 50.0}
    results.starts = {"trigen": {"ready": 3.42, "first_token": 3.53, "gb": 0.66}}
    text = write(tmp_path, results)
    assert "| completions | 8 | llama.cpp | 50 | 2.00 | 1.5 | 10 | 20 | 500 | 600 | 0.90 | 7 | 1 | 1.25 |" in text
    assert "completions: TTFT 1000 ms, TPOT 100 ms; questions: E2EL 1000 ms" in text
    assert "| trigen | 3.4 | 3.5 | 0.7 |" in text
    assert "vLLM's own client" not in text
    results.vllm_bench = {"trigen": {"completions": {8: VLLM_CELL | {"completed": 48, "failed": 0}}}}
    text = write(tmp_path, results)
    assert "| completions | 8 | trigen | 1,234 | 2.5 | 20 | 30 | 9 | 48 | 0 |" in text
    assert (tmp_path / "serve.md").read_text().startswith(text)
    assert json.loads((tmp_path / "serve.json").read_text())["starts"]["trigen"]["ready"] == 3.42
    assert (tmp_path / "serve.png").exists()
