"""The service's settings, from the environment: TRIGEN_ENGINE, TRIGEN_MAX_BODY_BYTES and so on."""

import functools
import importlib.util
from typing import Literal

from bentoml.exceptions import BentoMLConfigException
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_TIMEOUT_SECONDS = 3600


class Settings(BaseSettings):
    """What can be set, and the bounds."""

    model_config = SettingsConfigDict(env_prefix="TRIGEN_")

    engine: Literal["auto", "openvino", "transformers"] = "auto"
    """What runs the LLM; auto takes transformers where there is a CUDA device, else openvino."""
    reproducible: bool = False
    """The CPU engine computes one request after the other: the LLM too gives the same text for the same seed whatever else it is asked,
    but many wait for each other."""
    api_key: SecretStr | None = Field(default=None, min_length=1)
    """Clients must send it: `Authorization: Bearer KEY`. Documentation, probes and metrics need no key."""
    max_texts: int = Field(default=128, ge=1)
    """Texts under way at most: what goes beyond is refused with 429."""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """A larger request body is refused with 413."""
    timeout_seconds: int = Field(default=60, ge=1, le=MAX_TIMEOUT_SECONDS)
    """A request that is not answered by then is given up and answered with 504."""
    stream_interval_ms: int = Field(default=50, ge=0, le=1_000)
    """The LLM's streams send their first token at once, and then what has come since about so often: 20 times a second looks as smooth as
    each token by itself, and costs the processor that also generates less. 0 sends each token by itself."""
    ping_seconds: float = Field(default=15, ge=0.1, le=600)
    """A stream that has nothing to say for so long says that it is still there: proxies close what is silent."""
    answer_length: int = Field(default=64, ge=1, le=512)
    """Tokens of an answer of `/answer_question` at most."""

    @field_validator("reproducible")
    @classmethod
    def within_reach(cls, reproducible: bool, info: ValidationInfo) -> bool:
        """Refuse what the engine that was asked for cannot do."""
        if reproducible and info.data.get("engine") == "transformers":
            raise ValueError("only the CPU engine is: take TRIGEN_ENGINE=openvino")
        return reproducible

    @field_validator("engine")
    @classmethod
    def installed(cls, engine: str) -> str:
        """Refuse an engine whose packages are not there."""
        if engine == "transformers" and not importlib.util.find_spec("transformers"):
            raise ValueError("transformers and torch are not installed: install requirements.txt, or take openvino")
        return engine


@functools.cache
def settings() -> Settings:
    """Give the settings of this process, read once. Raises BentoMLConfigException, which names each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        faults = (f"TRIGEN_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in error.errors())
        raise BentoMLConfigException("; ".join(faults)) from None
