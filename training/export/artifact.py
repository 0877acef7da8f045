"""The artifact of an LLM, as the model store holds it."""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.answers import ALWAYS_ANSWERS, AnswerSettings
from models.llm import LLM, SETTINGS_FILE, PromptOrder, document_start
from training.export.openvino_ir import export_openvino


def save_artifact(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    prompt_order: PromptOrder,
    answers: AnswerSettings = ALWAYS_ANSWERS,
) -> None:
    """Write the artifact: a Hugging Face directory in bf16, `trigen.json`, and the CPU engine's OpenVINO IR."""
    shutil.rmtree(directory, ignore_errors=True)
    model = copy.deepcopy(model).bfloat16()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = {"document_start": document_start(tokenizer), "prompt_order": prompt_order, "answers": answers.model_dump()}
    (directory / SETTINGS_FILE).write_text(json.dumps(settings) + "\n")
    print("exporting for the CPU engine …", flush=True)
    export_openvino(directory, directory / "openvino")


def set_answer_settings(directory: Path, answers: AnswerSettings) -> None:
    """Replace the answer settings of an artifact."""
    file = directory / SETTINGS_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"answers": answers.model_dump()}) + "\n")


@contextmanager
def open_artifact(directory: Path) -> Iterator[LLM]:
    """Load an artifact into the engine that serves it on this machine, and close the engine afterwards."""
    llm = LLM.load(directory)
    try:
        yield llm
    finally:
        llm.close()
