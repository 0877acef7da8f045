"""GPT-2 with random weights and a small tokenizer, for tests and for measuring speed and memory; the text it generates is meaningless."""

import json
from pathlib import Path
from typing import Any

TEXT = Path(__file__).resolve().parent.parent / "data/quickstart/train.jsonl"


def save_random_gpt2(target: Path, words: int, **configuration: Any) -> None:
    """Write a model and its tokenizer to the directory `target`, in Hugging Face's format.

    The tokenizer is a byte-level BPE of `words` tokens, learned from the quickstart's text. The model is a GPT2Config with
    `configuration` (GPT-2 small by default) and weights drawn with seed 0. Ids above the BPE's get made-up words, which no text is encoded
    to: random weights generate any id, and each must decode to text.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(
        [str(TEXT)],
        trainers.BpeTrainer(vocab_size=words, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False),
    )
    config = GPT2Config(bos_token_id=0, eos_token_id=0, **configuration)
    learned = json.loads(bpe.to_str())
    size = len(learned["model"]["vocab"])
    learned["model"]["vocab"] |= {f"Ġword{id}": id for id in range(size, config.vocab_size)}
    bpe = Tokenizer.from_str(json.dumps(learned))
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(target)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(target)
