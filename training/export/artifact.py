"""The artifact of an LLM: what the model store holds, and what serves it."""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.llm import LLM, SETTINGS, PromptOrder, document_start
from training.export.openvino_ir import export_openvino


def save_artifact(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, prompt_order: PromptOrder) -> None:
    """Write what the store holds: the Hugging Face directory in bf16, `trigen.json`, and the CPU engine's IR."""
    shutil.rmtree(directory, ignore_errors=True)
    model = copy.deepcopy(model).bfloat16()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ours = {"document_start": document_start(tokenizer), "prompt_order": prompt_order}
    (directory / SETTINGS).write_text(json.dumps(ours) + "\n")
    print("exporting for the CPU engine …", flush=True)
    export_openvino(directory, directory / "openvino")


@contextmanager
def open_artifact(directory: Path) -> Iterator[LLM]:
    """The artifact behind the engine that serves it here."""
    llm = LLM.load(directory)
    try:
        yield llm
    finally:
        llm.close()
