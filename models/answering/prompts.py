"""The prompts of the LLM: how a question, its context and its answer are spelled, and how a document begins."""

from typing import Any, Literal

PromptOrder = Literal["context-first", "question-twice"]
"""Where the question stands: after the context only, so that all questions about a context share its computation; or before it as well,
so that a causal model reads the context with the question in mind."""
ANSWER_FOLLOWS = ":"
"""What follows `undecided_prompt` if an answer comes. If none does, the text ends there."""


def is_question(prompt: str) -> bool:
    """Return whether the LLM answers a prompt instead of continuing it."""
    return prompt.rstrip().endswith("?")


def question_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """Return the prompt for a question that the model is to answer in any case.

    The model is trained to continue it with `answer_text(answer)` and the end of the text. Without a context it answers from memory.
    """
    return undecided_prompt(question, context, order) + ANSWER_FOLLOWS


def undecided_prompt(question: str, context: str | None = None, order: PromptOrder = "context-first") -> str:
    """Return the prompt for a question that the context may not answer. This is the only place that spells out the template.

    A model that was trained to abstain continues it with `ANSWER_FOLLOWS`, the answer and the end of the text or, if the context does
    not tell, with the end alone. So the probability of its first token is the probability that there is an answer.
    """
    question_line = f"Question: {question.strip()}\n"
    if not context or not context.strip():
        return f"{question_line}Answer"
    before = question_line if order == "question-twice" else ""
    return f"{before}Context: {context.strip()}\n{question_line}Answer"


def answer_text(answer: str) -> str:
    """Return the text that follows `question_prompt`: the answer after one space, so that it has the same tokens as in running text."""
    return f" {answer}"


def document_start(tokenizer: Any) -> str:
    """Return the text of the token that separated documents in pretraining, given a transformers tokenizer.

    Returns an empty string if the tokenizer adds such a token by itself or has none.
    """
    if tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"]:
        return ""
    return "<|endoftext|>" if "<|endoftext|>" in tokenizer.get_vocab() else tokenizer.bos_token or ""
