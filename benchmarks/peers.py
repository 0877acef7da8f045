"""What the peers of the fine-tuning are given: rows, TRL's best configuration for them, and a base model to time."""

from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TRL_BATCH, TRL_LENGTH = 16, 384


def drawn_rows(dataset: str, count: int = 3000) -> Any:
    """Answerable training questions, drawn by seed 0, with their contexts."""
    from training.data import answerable, draw, load_splits

    return draw(answerable(load_splits(dataset).train), count, 0)


def prompts_and_completions(rows: Any) -> Any:
    """TRL's form of the same template: with it, SFTTrainer supervises the completion and the end of the text alone."""
    from models.llm import answer_text, question_prompt

    return rows.map(
        lambda row: {
            "prompt": question_prompt(row["question"], row["context"]),
            "completion": answer_text(row["answers"]["text"][0]),
        },
        remove_columns=rows.column_names,
    )


def sft_config(directory: str, **settings: Any) -> Any:
    """bf16, fused AdamW, groups of like length, no recomputation of activations (its default, which costs a third)."""
    import torch
    from trl import SFTConfig

    best: dict[str, Any] = {
        "bf16": True,
        "optim": "adamw_torch_fused",
        "per_device_train_batch_size": TRL_BATCH,
        "max_length": TRL_LENGTH,
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "learning_rate": 1e-4,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "linear",
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1000,
        "use_cpu": not torch.cuda.is_available(),
    }
    return SFTConfig(output_dir=directory, **best | settings)


def random_gpt2() -> Path:
    """GPT-2 small's architecture with random weights and a byte-level BPE of the quickstart's text: for speed, never for quality."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    target = PROJECT / "runs/base-models/gpt2-random"
    if (target / "model.safetensors").exists():
        return target
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train([str(PROJECT / "data/quickstart/train.jsonl")], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<|endoftext|>").save_pretrained(target)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(target)
    return target
