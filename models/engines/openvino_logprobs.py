"""Log-probabilities of given tokens, computed in the engine's process.

openvino-genai's pipeline does not return alternatives, so the IR also runs beside it. The arithmetic is fp32 (`EXACT`) with the same int8
weights as in generation, so a text's log-probabilities do not depend on concurrent requests.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from models.engines import MAX_LOGPROBS, IdLogprob
from models.engines.openvino_messages import EXACT, LogprobsReply, ReadLogprobs


@dataclass(eq=False)
class _Text:
    """A text that is being read. The state of `request` is its key-value cache."""

    request: ov.InferRequest
    last: int | None = None
    """The last token read. The model has not computed it yet: that happens together with its successor's log-probability."""
    computed: int = 0
    """Number of tokens in the key-value cache."""
    pending: list[int] = field(default_factory=list)
    logprobs: list[IdLogprob] = field(default_factory=list)


class LogprobModel:
    """The model, and the texts that it is reading. Each `step` computes a chunk of one of them, in turn."""

    def __init__(self, directory: Path, step_tokens: int) -> None:
        self._directory, self._step_tokens = directory, step_tokens
        self._texts: dict[int, _Text] = {}
        self._queue: deque[int] = deque()

    @cached_property
    def _model(self) -> ov.CompiledModel:
        """The model, compiled when the first text arrives: most services never need it."""
        core = ov.Core()
        ir = core.read_model(self._directory / "openvino/openvino_model.xml")
        return core.compile_model(_with_logprob_outputs(ir), "CPU", dict(EXACT.properties))

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not self._queue

    def add(self, message: ReadLogprobs) -> None:
        """Queue the next tokens of a text."""
        if message.id not in self._texts:
            self._texts[message.id] = _Text(self._model.create_infer_request())
        text = self._texts[message.id]
        text.pending = message.ids
        self._queue.append(message.id)

    def cancel(self, id: int) -> None:
        """Drop a text if it exists."""
        self._texts.pop(id, None)

    def step(self) -> LogprobsReply | None:
        """Compute a chunk of the next text in the queue. Returns the reply once all tokens of its message are computed."""
        if not self._queue:
            return None
        id = self._queue.popleft()
        text = self._texts.get(id)
        if text is None:
            return None
        try:
            chunk, text.pending = text.pending[: self._step_tokens], text.pending[self._step_tokens :]
            text.logprobs += _compute(text, chunk)
        except Exception as error:  # affects this text only
            self.cancel(id)
            return LogprobsReply(id, str(error))
        if text.pending:
            self._queue.append(id)
            return None
        logprobs, text.logprobs = text.logprobs, []
        return LogprobsReply(id, logprobs)


def _with_logprob_outputs(model: ov.Model) -> ov.Model:
    """Replace the model's logits with log-probabilities.

    The result has another input, `targets`, shape (1, tokens): the token that follows each input token. Its outputs are the
    log-probability of each target, shape (1, tokens), and the log-probabilities and ids of the most probable tokens, shape
    (1, tokens, `MAX_LOGPROBS`).
    """
    targets = ops.parameter([1, -1], ov.Type.i64, name="targets")
    targets.output(0).get_tensor().add_names({"targets"})
    logprobs = ops.log_softmax(model.output("logits").get_node().input_value(0), -1)
    chosen = ops.squeeze(ops.gather_elements(logprobs, ops.unsqueeze(targets, np.int64(2)), 2), np.int64(2))
    best = ops.topk(logprobs, np.int64(MAX_LOGPROBS), 2, "max", "value", index_element_type="i64")
    results = [ops.result(output) for output in (chosen.output(0), best.output(0), best.output(1))]
    return ov.Model(results, model.get_sinks(), [*model.get_parameters(), targets])


def _compute(text: _Text, chunk: list[int]) -> list[IdLogprob]:
    """Return the log-probabilities of the tokens in `chunk`, which follow the text read so far."""
    is_first = text.last is None
    first: list[IdLogprob] = [(None, [])] if is_first else []
    targets = chunk[1:] if is_first else chunk
    inputs = chunk[:-1] if text.last is None else [text.last, *chunk[:-1]]
    text.last = chunk[-1]
    if not targets:
        return first
    end = text.computed + len(inputs)
    text.request.infer(
        {
            "input_ids": np.array([inputs]),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(text.computed, end)[None],
            "beam_idx": np.zeros(1, np.int32),
            "targets": np.array([targets]),
        }
    )
    text.computed = end
    chosen, best, best_ids = (text.request.get_output_tensor(output).data[0].tolist() for output in range(3))
    return first + [(logprob, list(zip(ids, values, strict=True))) for logprob, ids, values in zip(chosen, best_ids, best, strict=True)]
