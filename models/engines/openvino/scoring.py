"""The model that computes probabilities beside openvino-genai's pipeline, in the engine's process, and what it works on.

The pipeline returns neither alternatives nor the probabilities of given tokens, so the IR also runs by itself. The arithmetic is fp32
(`EXACT`) with the same int8 weights as in generation, so the results do not depend on concurrent requests.
"""

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from models.engines import MAX_LOGPROBS, SCORED_TEXTS
from models.engines.openvino import EXACT
from models.engines.supervision.messages import Reply

OUT_OF_MEMORY = "the engine has no memory left"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception says that there is no memory. OpenVINO wraps C++'s in a RuntimeError, and keeps its message."""
    return isinstance(error, MemoryError) or "std::bad_alloc" in str(error)


class Task(ABC):
    """Something to compute, with a key-value cache of its own."""

    LIMIT: ClassVar[int] = SCORED_TEXTS
    """Number of tasks of the same class that have a cache at once. The others wait."""
    STAYS: ClassVar[bool] = False
    """Whether the task keeps its cache after a reply, for further messages."""
    FREES_MEMORY: ClassVar[bool] = False
    """Whether the memory of the cache is freed when the task ends, rather than kept for the next task."""
    may_run: bool = False
    """Whether it is one of the tasks that have a cache."""
    request: ov.InferRequest | None = None
    """Its state is the cache. None before the first step."""

    @abstractmethod
    def advance(self, step_tokens: int) -> Any:
        """Run one forward pass, with up to `step_tokens` tokens of each text. Returns the value of the reply, or None before the end."""


class ScoringModel:
    """The model, and the tasks in progress. Each `step` advances one of them, in turn.

    The model is compiled when the first task arrives, because most services never need it, and in a thread, so that the other requests
    advance meanwhile.
    """

    def __init__(self, directory: Path, step_tokens: int) -> None:
        self._directory, self._step_tokens = directory, step_tokens
        self._tasks: dict[int, Task] = {}
        self._queue: deque[int] = deque()
        """Tasks with something to compute and a cache, in turn."""
        self._waiting: deque[int] = deque()
        """Tasks that wait for a cache, in order of arrival."""
        self._free: list[ov.InferRequest] = []
        """Caches of tasks that have ended, for the next ones."""
        self._model: ov.CompiledModel | None = None
        self._error: Exception | None = None
        """Why the model could not be compiled the last time."""
        self._compilation: threading.Thread | None = None
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK)
        """Becomes readable when the compilation has ended."""

    @property
    def idle(self) -> bool:
        """Whether a step would have nothing to do."""
        return not self._queue

    def get(self, id: int) -> Task | None:
        """Return the task with this id if there is one."""
        return self._tasks.get(id)

    def add(self, id: int, task: Task) -> None:
        """Start a task."""
        if self._compilation is None or (self._error and not (self._queue or self._waiting)):
            self._error = None  # after a failure, try again: the memory, for example, may suffice now
            self._compilation = threading.Thread(target=self._compile, daemon=True)
            self._compilation.start()
        self._tasks[id] = task
        self._waiting.append(id)
        self._assign_caches()

    def resume(self, id: int) -> None:
        """Give a turn to a task that stays and has got more to compute."""
        if self._tasks[id].may_run and id not in self._queue:  # else it has one already, or waits for a cache
            self._queue.append(id)

    def cancel(self, id: int) -> None:
        """Drop a task if it exists."""
        task = self._tasks.pop(id, None)
        if task is None:
            return
        if task.request and not task.FREES_MEMORY:
            task.request.reset_state()
            self._free.append(task.request)
        self._assign_caches()

    def step(self) -> Reply | None:
        """Run one forward pass for the next task in the queue. Returns its reply at its end."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
            self._assign_caches()
        if not self._queue:
            return None
        id = self._queue.popleft()
        task = self._tasks.get(id)
        if task is None:
            return None
        try:
            if self._error:
                raise self._error
            if task.request is None:
                assert self._model is not None
                task.request = self._free.pop() if self._free and not task.FREES_MEMORY else self._model.create_infer_request()
            value = task.advance(self._step_tokens)
        except Exception as error:  # affects this task only
            self.cancel(id)
            busy = is_out_of_memory(error)
            return Reply(id, error=OUT_OF_MEMORY if busy else str(error), busy=busy)
        if value is None:
            self._queue.append(id)
            return None
        if not task.STAYS:
            self.cancel(id)
        return Reply(id, value)

    def _compile(self) -> None:
        try:
            core = ov.Core()
            ir = core.read_model(self._directory / "openvino/openvino_model.xml")
            self._model = core.compile_model(with_logprob_outputs(ir), "CPU", dict(EXACT.properties))
        except Exception as error:  # fails the waiting tasks
            self._error = error
        os.eventfd_write(self.wakeup, 1)

    def _assign_caches(self) -> None:
        """Let the tasks run that may have a cache now, in order of arrival. If there is no model, let them fail at their step."""
        if not (self._model or self._error):
            return
        running = Counter(type(task) for task in self._tasks.values() if task.may_run)
        waiting, self._waiting = self._waiting, deque()
        for id in waiting:
            task = self._tasks.get(id)
            if task and running[type(task)] < task.LIMIT:
                task.may_run = True
                running[type(task)] += 1
                self._queue.append(id)
            elif task:
                self._waiting.append(id)


def with_logprob_outputs(model: ov.Model) -> ov.Model:
    """Replace the model's logits with log-probabilities.

    The result has two more inputs: `positions`, shape (positions,), are the input tokens after which they are computed, and `targets`,
    shape (batch, positions), the token that follows each of them. Its outputs are the log-probability of each target, shape
    (batch, positions); the log-probabilities and ids of the most probable tokens, shape (batch, positions, `MAX_LOGPROBS`); and the
    log-probabilities of all tokens after the last position, shape (batch, vocabulary).
    """
    positions = ops.parameter([-1], ov.Type.i64, name="positions")
    targets = ops.parameter([-1, -1], ov.Type.i64, name="targets")
    for parameter in (positions, targets):
        parameter.output(0).get_tensor().add_names({parameter.get_friendly_name()})
    logits = model.output("logits").get_node().input_value(0)
    head = logits.get_node()
    if head.get_type_name() == "MatMul":  # so the product with the vocabulary is computed for the positions only
        head.input(0).replace_source_output(ops.gather(head.input_value(0), positions, np.int64(1)).output(0))
        head.validate_and_infer_types()
    else:
        logits = ops.gather(logits, positions, np.int64(1)).output(0)
    logprobs = ops.log_softmax(logits, -1)
    chosen = ops.squeeze(ops.gather_elements(logprobs, ops.unsqueeze(targets, np.int64(2)), 2), np.int64(2))
    best = ops.topk(logprobs, np.int64(MAX_LOGPROBS), 2, "max", "value", index_element_type="i64")
    last = ops.gather(logprobs, np.int64(-1), np.int64(1))
    results = [ops.result(output) for output in (chosen.output(0), best.output(0), best.output(1), last.output(0))]
    return ov.Model(results, model.get_sinks(), [*model.get_parameters(), positions, targets])


def infer(
    request: ov.InferRequest, inputs: NDArray[np.int64], past: int, parents: Sequence[int], targets: NDArray[np.int64] | None = None
) -> list[NDArray[Any]]:
    """Run one forward pass and return its outputs: see `with_logprob_outputs`. They are overwritten by the next pass.

    `inputs`, shape (batch, tokens), follow the `past` tokens in the key-value cache; row n of the batch continues row `parents[n]` of it.
    With `targets`, of the same shape, the outputs are computed for all positions, else for the last one only.
    """
    batch, count = inputs.shape
    if targets is None:
        positions, targets = np.array([count - 1]), np.zeros((batch, 1), np.int64)
    else:
        positions = np.arange(count)
    request.infer(
        {
            "input_ids": inputs,
            "attention_mask": np.ones((batch, past + count), np.int64),
            "position_ids": np.broadcast_to(np.arange(past, past + count), (batch, count)),
            "beam_idx": np.array(parents, np.int32),
            "positions": positions,
            "targets": targets,
        }
    )
    return [request.get_output_tensor(output).data for output in range(4)]
