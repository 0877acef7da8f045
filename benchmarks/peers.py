"""TRL as a peer of the fine-tuning: its form of the rows, and its best configuration for them."""

from typing import Any

TRL_BATCH, TRL_LENGTH = 16, 384


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
