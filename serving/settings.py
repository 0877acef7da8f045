"""The service's settings, from the environment: TRIGEN_ENGINE, TRIGEN_MAX_BODY_BYTES, TRIGEN_ANSWER_LENGTH."""

import functools
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What can be set, and the bounds."""

    model_config = SettingsConfigDict(env_prefix="TRIGEN_")

    engine: Literal["auto", "openvino", "transformers"] = "auto"
    """What runs the LLM; auto takes transformers where there is a CUDA device, else openvino."""
    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """A larger request body is refused with 413."""
    answer_length: int = Field(default=64, ge=1, le=512)
    """Tokens of an answer of `/answer_question` at most."""


@functools.cache
def settings() -> Settings:
    """Give the settings of this process, read once; raises pydantic's ValidationError where a variable is wrong."""
    return Settings()
