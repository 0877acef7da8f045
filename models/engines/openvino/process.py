"""The process that runs openvino-genai: `python -m models.engines.openvino.process FD`, started by `OpenVINOEngine`.

`ContinuousBatchingPipeline.step()` holds Python's global interpreter lock (openvino-genai 2026.4). In the service's own process, nothing
else would be answered during a step. A process of its own also keeps a crash out of the service.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from models.engines.openvino import OpenVINOConfig
from models.engines.openvino.batch import Batch
from models.engines.openvino.logprobs import read_logprobs
from models.engines.openvino.scoring import ScoringModel
from models.engines.spans.openvino import SpanTask
from models.engines.supervision.loop import main
from models.engines.supervision.messages import AddRequest, Cancel, FindSpans, ReadLogprobs, Reply, StepReport


class OpenVINOStepper:
    """The batch, and beside it the model that computes probabilities. See `Stepper`."""

    def __init__(self, directory: Path, config: OpenVINOConfig) -> None:
        self.batch, self.scoring = Batch(directory, config), ScoringModel(directory, config.step_tokens)

    @property
    def idle(self) -> bool:
        """See `Stepper`."""
        return self.batch.idle and self.scoring.idle

    @property
    def wakeup(self) -> int:
        """See `Stepper`."""
        return self.scoring.wakeup

    def handle(self, message: AddRequest | ReadLogprobs | FindSpans | Cancel) -> Iterable[StepReport | Reply]:
        """See `Stepper`."""
        if isinstance(message, Cancel):
            self.batch.cancel(message.id)
            self.scoring.cancel(message.id)
        elif isinstance(message, ReadLogprobs):
            read_logprobs(self.scoring, message)
        elif isinstance(message, FindSpans):
            self.scoring.add(message.id, SpanTask(message))
        else:
            self.batch.add(message)
        return ()

    def step(self) -> Iterable[StepReport | Reply]:
        """See `Stepper`."""
        if not self.batch.idle and (report := self.batch.step()):
            yield report
        if reply := self.scoring.step():
            yield reply


def load(start_message: tuple[Path, OpenVINOConfig]) -> OpenVINOStepper:
    """Load the model."""
    return OpenVINOStepper(*start_message)


if __name__ == "__main__":
    main(sys.argv, load)
