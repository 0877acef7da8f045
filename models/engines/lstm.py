"""The LSTM's engine: its batch in a process of its own (`lstm_process.py`). This is the service's side."""

from pathlib import Path

from models.base import Token
from models.engines import Supervision
from models.engines.supervision.engine import SupervisedEngine
from models.engines.supervision.messages import AddRequest, Output, TextOutput
from models.engines.supervision.requests import Request
from models.words import require_text


class LSTMEngine(SupervisedEngine):
    """Continues texts with an LSTM's artifact. The process tokenizes and spells.

    A request whose length is 0 reads the prompt only: its one token has no text, and the log-probabilities of the prompt's words.
    """

    def __init__(self, directory: Path, supervision: Supervision = Supervision()) -> None:
        """Start the process and wait until it has loaded the model. Raises EngineStopped if it cannot."""
        super().__init__("the LSTM's engine", "models.engines.lstm_process", directory.resolve(), supervision)

    def _message(self, id: int, request: Request) -> AddRequest:
        return AddRequest(id, require_text(request.prompt), request.params)

    def _token(self, request: Request, output: Output | TextOutput) -> Token:  # noqa: ARG002
        assert isinstance(output, TextOutput)
        return output.token
