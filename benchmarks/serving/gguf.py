"""Convert a model to GGUF with Q8_0 weights, by llama.cpp's own converter: `python -m benchmarks.serving.gguf SOURCES MODEL TARGET`.

SOURCES is llama.cpp's source tree, MODEL a directory in Hugging Face's format. The converter does not know two things about some GPT-2s:
transformers writes `n_positions` but not its old name `n_ctx`, and the converter recognizes a tokenizer by a hash, so not one with a
vocabulary of its own. A GPT-2 splits text as GPT-2 does; any other model with an unknown tokenizer is refused, as the converter does.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def convert(sources: Path, model: Path, target: Path) -> None:
    """Write `model` to `target` with Q8_0 weights: int8 in blocks of 32, each with a scale in fp16.

    Raises NotImplementedError, with the converter's advice, for an unknown tokenizer of another architecture than GPT-2.
    """
    is_gpt2 = json.loads((model / "config.json").read_text())["model_type"] == "gpt2"
    sys.path.insert(0, str(sources))
    base, converter = importlib.import_module("conversion.base"), importlib.import_module("convert_hf_to_gguf")
    load_config, find_pre_tokenizer = base.ModelBase.load_hparams, base.TextModel.get_vocab_base_pre

    def config(*arguments: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = load_config(*arguments)
        return {"n_ctx": loaded.get("n_positions")} | loaded

    def pre_tokenizer(*arguments: Any) -> str:
        try:
            return str(find_pre_tokenizer(*arguments))
        except NotImplementedError:  # how the converter says that the hash is unknown
            if not is_gpt2:
                raise
            return "gpt-2"

    base.ModelBase.load_hparams, base.TextModel.get_vocab_base_pre = staticmethod(config), pre_tokenizer
    sys.argv[1:] = [str(model), "--outtype", "q8_0", "--outfile", str(target)]
    converter.main()


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))
