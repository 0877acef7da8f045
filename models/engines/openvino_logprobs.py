"""Scores of given tokens, in the engine's process: openvino-genai's pipeline names no alternatives, so the IR is run by itself.

The arithmetic is fp32 (`EXACT`), of the int8 weights that are served: the scores of a text are the same whatever else is computed.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from models.engines import MAX_LOGPROBS, IdScore
from models.engines.openvino_messages import EXACT, Read, Scores


@dataclass(eq=False)
class _Text:
    """One that is being read: the key-value cache is the request's state."""

    request: ov.InferRequest
    last: int | None = None
    """The token that is not computed yet: its successor's score comes of it."""
    computed: int = 0
    """How many are."""
    waiting: list[int] = field(default_factory=list)
    scores: list[IdScore] = field(default_factory=list)


class Scoring:
    """The texts that are being read; each `step` computes a piece of one."""

    def __init__(self, directory: Path, step_tokens: int) -> None:
        self._directory, self._step_tokens = directory, step_tokens
        self._texts: dict[int, _Text] = {}
        self._queue: deque[int] = deque()

    @cached_property
    def _model(self) -> ov.CompiledModel:
        """Compiled when the first text comes: few services are ever asked."""
        core = ov.Core()
        return core.compile_model(_scoring(core.read_model(self._directory / "openvino/openvino_model.xml")), "CPU", dict(EXACT.properties))

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._queue

    def add(self, message: Read) -> None:
        """Take in what comes next of a text."""
        if message.id not in self._texts:
            self._texts[message.id] = _Text(self._model.create_infer_request())
        text = self._texts[message.id]
        text.waiting = message.ids
        self._queue.append(message.id)

    def forget(self, id: int) -> None:
        """Drop a text, if there is one."""
        self._texts.pop(id, None)

    def step(self) -> Scores | None:
        """Compute a piece of the text whose turn it is; give its scores once all of what it was given is read."""
        if not self._queue:
            return None
        id = self._queue.popleft()
        text = self._texts.get(id)
        if text is None:
            return None
        try:
            piece, text.waiting = text.waiting[: self._step_tokens], text.waiting[self._step_tokens :]
            text.scores += _read(text, piece)
        except Exception as error:  # no other request is concerned
            self.forget(id)
            return Scores(id, str(error))
        if text.waiting:
            self._queue.append(id)
            return None
        scores, text.scores = text.scores, []
        return Scores(id, scores)


def _scoring(model: ov.Model) -> ov.Model:
    """The model with another input, `targets`, shape (1, tokens), the token that follows each; and instead of logits the log-probability of
    each target, shape (1, tokens), and the most probable tokens' log-probabilities and ids, shape (1, tokens, `MAX_LOGPROBS`).
    """
    targets = ops.parameter([1, -1], ov.Type.i64, name="targets")
    targets.output(0).get_tensor().add_names({"targets"})
    logprobs = ops.log_softmax(model.output("logits").get_node().input_value(0), -1)
    chosen = ops.squeeze(ops.gather_elements(logprobs, ops.unsqueeze(targets, np.int64(2)), 2), np.int64(2))
    best = ops.topk(logprobs, np.int64(MAX_LOGPROBS), 2, "max", "value", index_element_type="i64")
    results = [ops.result(output) for output in (chosen.output(0), best.output(0), best.output(1))]
    return ov.Model(results, model.get_sinks(), [*model.get_parameters(), targets])


def _read(text: _Text, piece: list[int]) -> list[IdScore]:
    """Compute what precedes each token of `piece`."""
    beginning: list[IdScore] = [(None, [])] if text.last is None else []
    targets = piece[len(beginning) :]
    ids = [*piece[:-1]] if text.last is None else [text.last, *piece[:-1]]
    text.last = piece[-1]
    if not targets:
        return beginning
    end = text.computed + len(ids)
    inputs = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, end), np.int64),
        "position_ids": np.arange(text.computed, end)[None],
        "beam_idx": np.zeros(1, np.int32),
        "targets": np.array([targets]),
    }
    text.request.infer(inputs)
    text.computed = end
    chosen, best, best_ids = (text.request.get_output_tensor(n).data[0].tolist() for n in range(3))
    return beginning + [(logprob, list(zip(*top, strict=True))) for logprob, *top in zip(chosen, best_ids, best, strict=True)]
