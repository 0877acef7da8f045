"""The artifact of an LLM, as the model store holds it."""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.answering.answers import ALWAYS_ANSWERS, AnswerSettings
from models.answering.prompts import PromptOrder, document_start
from models.engines import default_engine
from models.llm import LLM, SETTINGS_FILE
from training.export.openvino_ir import export_openvino


def save_artifact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    prompt_order: PromptOrder,
    answers: AnswerSettings = ALWAYS_ANSWERS,
) -> None:
    """Write what the GPU's engine reads: a Hugging Face directory in bf16, and `trigen.json`. `export_for_cpu` completes the artifact."""
    shutil.rmtree(directory, ignore_errors=True)
    model = copy.deepcopy(model)
    _merge_adapters(model)
    model.bfloat16()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = {"document_start": document_start(tokenizer), "prompt_order": prompt_order, "answers": answers.model_dump()}
    (directory / SETTINGS_FILE).write_text(json.dumps(settings) + "\n")


def _merge_adapters(model: torch.nn.Module) -> None:
    """Put the adapters of `training.fine_tuning.base_model.add_adapters`, if there are any, into the weights."""
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                setattr(module, name, layer.get_base_layer())


def export_for_cpu(directory: Path) -> None:
    """Add the CPU engine's OpenVINO IR to an artifact, unless it is there."""
    if not (directory / "openvino").exists():
        print("exporting for the CPU engine …", flush=True)
        export_openvino(directory, directory / "openvino")


def set_answer_settings(directory: Path, answers: AnswerSettings) -> None:
    """Replace the answer settings of an artifact."""
    file = directory / SETTINGS_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"answers": answers.model_dump()}) + "\n")


@contextmanager
def open_artifact(directory: Path) -> Iterator[LLM]:
    """Load an artifact into the engine that serves it on this machine, and close the engine afterwards.

    A CPU exports it first, if need be. A GPU does not need that, and the validations of a fine-tuning there do without.
    """
    if default_engine() == "openvino":
        export_for_cpu(directory)
    llm = LLM.load(directory)
    try:
        yield llm
    finally:
        llm.close()
