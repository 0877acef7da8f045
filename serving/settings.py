"""The service's settings, read from environment variables: TRIGEN_ENGINE, TRIGEN_MAX_BODY_BYTES and so on."""

import functools
import importlib.util
from pathlib import Path
from typing import Annotated, Literal

from bentoml.exceptions import BentoMLConfigException
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.store import LATEST
from serving.edge.keys import Hashes, hash_keys, read_key_file

MAX_TIMEOUT_SECONDS = 3600


def _split(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _hash_keys(value: str | Hashes) -> Hashes:
    return hash_keys(value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings with their defaults and bounds."""

    model_config = SettingsConfigDict(env_prefix="TRIGEN_")

    engine: Literal["auto", "openvino", "transformers"] = "auto"
    """The engine that runs the LLM. auto chooses transformers if there is a CUDA device, else openvino."""
    bigram_version: str = Field(default=LATEST, min_length=1)
    """The version of the bigram in the model store."""
    rnn_version: str = Field(default=LATEST, min_length=1)
    """The version of the LSTM."""
    llm_version: str = Field(default=LATEST, min_length=1)
    """The version of the LLM."""
    reproducible: bool = False
    """Let the CPU engine process one request at a time. The LLM then gives the same text for the same seed under any load, but concurrent
    requests wait for each other."""
    engine_hang_seconds: float = Field(default=20, ge=1, le=3_600)
    """The process of an engine that has not answered for this long is replaced. It answers between two steps, so this must exceed the
    longest step."""
    api_key: Annotated[Hashes, NoDecode, BeforeValidator(_hash_keys)] = Field(default=frozenset(), repr=False)
    """The keys, separated by commas. Clients must send one as `Authorization: Bearer KEY`; only the probes need none. The setting holds
    the keys' hashes."""
    api_key_file: Path | None = None
    """A file with one key a line, in addition to `api_key`. It is read again when it changes."""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    """The origins, separated by commas, whose pages may call the service from a browser."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """A port that serves the metrics without a key, besides `/metrics`."""
    log_prompts: bool = False
    """Add the request's body to its line in the log."""
    max_connections: int = Field(default=1_000, ge=1)
    """The maximum number of open connections. Requests on further ones get 503, except the probes."""
    max_header_bytes: int = Field(default=32_768, ge=1_024)
    """The maximum size of a request's line and headers. Larger ones are rejected with 431."""
    header_seconds: float = Field(default=10, gt=0, le=MAX_TIMEOUT_SECONDS)
    """The time for a request's headers. A connection that is slower gets 408 and is closed."""
    body_seconds: float = Field(default=30, gt=0, le=MAX_TIMEOUT_SECONDS)
    """The time for a request's body. A slower one is rejected with 408. A client that reads nothing of its response for as long loses its
    connection."""
    drain_seconds: float = Field(default=0, ge=0, le=MAX_TIMEOUT_SECONDS)
    """The time between SIGTERM, when `/readyz` begins to fail, and the end of accepting requests."""
    max_texts: int = Field(default=128, ge=1)
    """The maximum number of texts that the LSTM and the LLM each generate at once. Those of further requests wait."""
    max_bigram_texts: int = Field(default=1_024, ge=1)
    """The same for the bigram. Its texts take turns (`models/turns.py`), so that a short one need not wait for long ones."""
    max_waiting: int = Field(default=128, ge=0)
    """The maximum number of texts that wait for each model. A request that would exceed it is rejected with 429."""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """The maximum size of a request body. A larger one is rejected with 413."""
    timeout_seconds: int = Field(default=60, ge=1, le=MAX_TIMEOUT_SECONDS)
    """The time limit of a request, which the header X-Request-Timeout may lower. When it expires, the work is cancelled and the client
    gets a 504."""
    stream_interval_ms: int = Field(default=50, ge=0, le=1_000)
    """The flush interval of the LLM's streams after the first token, which is sent at once. 20 events a second look as smooth as one per
    token, and leave more CPU time for generation. 0 sends each token separately."""
    ping_seconds: float = Field(default=15, ge=0.1, le=600)
    """A stream that is silent for this long sends a ping, because proxies close silent connections."""
    log_format: Literal["text", "json"] = "text"
    """The format of the log: text, or one JSON object a line."""
    answer_length: int = Field(default=64, ge=1, le=512)
    """The maximum number of tokens in an answer of `/answer_question`."""
    ui: bool = True
    """Serve the web page at `/ui`, to which `/` then leads."""

    @field_validator("reproducible")
    @classmethod
    def require_cpu_engine(cls, reproducible: bool, info: ValidationInfo) -> bool:
        """Reject `reproducible` for an engine that does not support it."""
        if reproducible and info.data.get("engine") == "transformers":
            raise ValueError("only the CPU engine is reproducible: set TRIGEN_ENGINE=openvino")
        return reproducible

    @field_validator("api_key_file")
    @classmethod
    def require_keys(cls, file: Path | None) -> Path | None:
        """Reject a file that cannot be read or has no key."""
        if file:
            try:
                read_key_file(file)
            except OSError as error:
                raise ValueError(f"cannot read the file: {error}") from None
        return file

    @field_validator("engine")
    @classmethod
    def require_packages(cls, engine: str) -> str:
        """Reject an engine whose packages are not installed."""
        if engine == "transformers" and not importlib.util.find_spec("transformers"):
            raise ValueError("transformers and torch are not installed: install requirements.txt, or set TRIGEN_ENGINE=openvino")
        return engine


@functools.cache
def settings() -> Settings:
    """Return the settings of this process, which are read once. Raises BentoMLConfigException, which names every invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        messages = (f"TRIGEN_{'_'.join(map(str, details['loc'])).upper()}: {details['msg']}" for details in error.errors())
        raise BentoMLConfigException("; ".join(messages)) from None


def model_versions() -> dict[str, str]:
    """Return the version of each model that the service serves, by the model's name."""
    return {"bigram": settings().bigram_version, "rnn": settings().rnn_version, "llm": settings().llm_version}
