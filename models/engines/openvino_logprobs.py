"""Log-probabilities of given tokens, computed in the engine's process.

openvino-genai's pipeline does not return alternatives, so the IR also runs beside it. The arithmetic is fp32 (`EXACT`) with the same int8
weights as in generation, so a text's log-probabilities do not depend on concurrent requests.
"""

import contextlib
import os
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from models.engines import MAX_LOGPROBS, SCORED_TEXTS, IdLogprob
from models.engines.openvino import EXACT
from models.engines.supervision.messages import ReadLogprobs, Reply

OUT_OF_MEMORY = "the engine has no memory left"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that there is no memory. OpenVINO wraps C++'s in a RuntimeError, and keeps its message."""
    return isinstance(error, MemoryError) or "std::bad_alloc" in str(error)


@dataclass(eq=False)
class _Text:
    """A text that is being read."""

    pending: list[int]
    request: ov.InferRequest | None = None
    """Its state is the text's key-value cache. None while the text waits for one."""
    last: int | None = None
    """The last token read. The model has not computed it yet: that happens together with its successor's log-probability."""
    computed: int = 0
    """Number of tokens in the key-value cache."""
    logprobs: list[IdLogprob] = field(default_factory=list)


class LogprobModel:
    """The model, and the texts that it is reading. Each `step` computes a chunk of one of them, in turn.

    The model is compiled when the first text arrives, because most services never need it, and in a thread, so that the other requests
    advance meanwhile.
    """

    def __init__(self, directory: Path, step_tokens: int) -> None:
        self._directory, self._step_tokens = directory, step_tokens
        self._texts: dict[int, _Text] = {}
        self._queue: deque[int] = deque()
        """Texts with pending tokens and a cache, in turn."""
        self._waiting: deque[int] = deque()
        """Texts that wait for a cache, in order of arrival."""
        self._free: list[ov.InferRequest] = []
        self._error: Exception | None = None
        """Why the model could not be compiled the last time."""
        self._compilation: threading.Thread | None = None
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK)
        """Becomes readable when the compilation has ended."""

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not self._queue

    @property
    def texts(self) -> int:
        """Number of texts in memory."""
        return len(self._texts)

    def add(self, message: ReadLogprobs) -> None:
        """Queue the next tokens of a text."""
        if self._compilation is None or (self._error and not (self._queue or self._waiting)):
            self._error = None  # after a failure, try again: the memory, for example, may suffice now
            self._compilation = threading.Thread(target=self._compile, daemon=True)
            self._compilation.start()
        text = self._texts.get(message.id)
        if text is None:
            self._texts[message.id] = _Text(message.ids)
            self._waiting.append(message.id)
        else:
            text.pending = message.ids
            self._queue.append(message.id)
        self._assign_caches()

    def cancel(self, id: int) -> None:
        """Drop a text if it exists."""
        text = self._texts.pop(id, None)
        if text and text.request:
            text.request.reset_state()
            self._free.append(text.request)
            self._assign_caches()

    def step(self) -> Reply | None:
        """Compute a chunk of the next text in the queue. Returns the reply once all tokens of its message are computed."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
            self._assign_caches()
        if not self._queue:
            return None
        id = self._queue.popleft()
        text = self._texts.get(id)
        if text is None:
            return None
        try:
            if self._error:
                raise self._error
            chunk, text.pending = text.pending[: self._step_tokens], text.pending[self._step_tokens :]
            text.logprobs += _compute(text, chunk)
        except Exception as error:  # affects this text only
            self.cancel(id)
            busy = is_out_of_memory(error)
            return Reply(id, error=OUT_OF_MEMORY if busy else str(error), busy=busy)
        if text.pending:
            self._queue.append(id)
            return None
        logprobs, text.logprobs = text.logprobs, []
        return Reply(id, logprobs)

    def _compile(self) -> None:
        try:
            core = ov.Core()
            ir = core.read_model(self._directory / "openvino/openvino_model.xml")
            model = core.compile_model(_with_logprob_outputs(ir), "CPU", dict(EXACT.properties))
            self._free = [model.create_infer_request() for _ in range(SCORED_TEXTS)]
        except Exception as error:  # fails the waiting texts
            self._error = error
        os.eventfd_write(self.wakeup, 1)

    def _assign_caches(self) -> None:
        """Give the free caches to the texts that wait for one. If there is no model, let them fail at their step."""
        while self._waiting and (self._free or self._error):
            if text := self._texts.get(self._waiting[0]):
                text.request = self._free.pop() if self._free else None
                self._queue.append(self._waiting[0])
            self._waiting.popleft()


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
    assert text.request is not None
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
