"""Fine-tune a causal LM for question answering: read `pipeline` first."""
