"""The service's settings, read from environment variables: TRIGEN_ENGINE, TRIGEN_MAX_BODY_BYTES and so on."""

import functools
import importlib.util
from typing import Literal

from bentoml.exceptions import BentoMLConfigException
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_TIMEOUT_SECONDS = 3600


class Settings(BaseSettings):
    """The settings with their defaults and bounds."""

    model_config = SettingsConfigDict(env_prefix="TRIGEN_")

    engine: Literal["auto", "openvino", "transformers"] = "auto"
    """The engine that runs the LLM. auto chooses transformers if there is a CUDA device, else openvino."""
    reproducible: bool = False
    """Let the CPU engine process one request at a time. The LLM then gives the same text for the same seed under any load, but concurrent
    requests wait for each other."""
    engine_hang_seconds: float = Field(default=20, ge=1, le=3_600)
    """The process of an engine that has not answered for this long is replaced. It answers between two steps, so this must exceed the
    longest step."""
    api_key: SecretStr | None = Field(default=None, min_length=1)
    """The key that clients must send as `Authorization: Bearer KEY`. Documentation, probes and metrics need none."""
    max_texts: int = Field(default=128, ge=1)
    """The maximum number of texts generated at once. A request that would exceed it is rejected with 429."""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """The maximum size of a request body. A larger one is rejected with 413."""
    timeout_seconds: int = Field(default=60, ge=1, le=MAX_TIMEOUT_SECONDS)
    """The time limit of a request. When it expires, the work is cancelled and the client gets a 504."""
    stream_interval_ms: int = Field(default=50, ge=0, le=1_000)
    """The flush interval of the LLM's streams after the first token, which is sent at once. 20 events a second look as smooth as one per
    token, and leave more CPU time for generation. 0 sends each token separately."""
    ping_seconds: float = Field(default=15, ge=0.1, le=600)
    """A stream that is silent for this long sends a ping, because proxies close silent connections."""
    answer_length: int = Field(default=64, ge=1, le=512)
    """The maximum number of tokens in an answer of `/answer_question`."""

    @field_validator("reproducible")
    @classmethod
    def require_cpu_engine(cls, reproducible: bool, info: ValidationInfo) -> bool:
        """Reject `reproducible` for an engine that does not support it."""
        if reproducible and info.data.get("engine") == "transformers":
            raise ValueError("only the CPU engine is reproducible: set TRIGEN_ENGINE=openvino")
        return reproducible

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
