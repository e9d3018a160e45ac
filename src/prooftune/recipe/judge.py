"""The recipe's section about the judge."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from prooftune.recipe.base import Section

CRITERIA = {
    "coherence": (
        "Is the answer clear, well ordered and free of contradictions and broken sentences?"
    ),
    "instruction_following": "Does the answer do what was asked: this question, in the form and "
    "length it asks for, and "
    "nothing else?",
    "correctness": "Is what the answer says true? Where a reference answer is given, the same "
    "facts as there are correct, "
    "in whatever words; where a context is given, what contradicts it is wrong.",
}
"""The criteria that are judged unless the recipe names others."""


class Judge(Section):
    """A language model that scores answers and prefers one of two."""

    model: str = Field(min_length=1)
    """The judge's name at its endpoint (``deepseek-r1:8b``), or that of a local model."""
    base_url: str | None = None
    """Any OpenAI-compatible endpoint: ``http://localhost:11434/v1`` (Ollama), a vLLM or llama.cpp
    server. None: a local model judges."""
    api_key_env: str | None = None
    """Environment variable that holds the endpoint's key. None: the endpoint wants none."""
    criteria: dict[str, str] = CRITERIA
    """Criterion -> the question that the judge answers with a score; or a list of names of shipped
    criteria."""
    scale: tuple[int, int] = (1, 5)
    """Worst and best score; every whole number between them may be given."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0: the judge's most likely words."""
    max_tokens: int = Field(default=1024, gt=0)
    """Tokens that a reply may have, thinking included. A reply that reaches it is a failed
    judgement."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds for one request from start to end, however busily the endpoint sends."""
    deadline: float = Field(default=3600.0, gt=0)
    """Seconds for all requests of one variant together; what is not asked by then is counted as
    failed, and asked by the next run."""
    retries: int = Field(default=3, ge=0)
    """How often a request is repeated after a time-out, a lost connection, or status 408, 429 or
    5xx."""
    concurrency: int = Field(default=4, gt=0, le=256)
    """Requests under way at one time."""
    rows: int | None = Field(default=200, gt=0)
    """Test rows that are judged, drawn with the seed. None: all."""
    human: str | None = None
    """A CSV file of scores that people gave, with columns ``id``, ``criterion`` and ``score``: the
    judge's agreement with them is reported."""

    @field_validator("criteria", mode="before")
    @classmethod
    def _shipped_by_name(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        unknown = [str(name) for name in value if name not in CRITERIA]
        if unknown:
            raise ValueError(
                f"no shipped criterion {', '.join(unknown)}; there are {', '.join(CRITERIA)}. One "
                "of your own is "
                "written as 'name: the question that the judge answers'"
            )
        return {name: CRITERIA[name] for name in value}

    @field_validator("criteria")
    @classmethod
    def _at_least_one(cls, value: dict[str, str]) -> dict[str, str]:
        if not value or not all(name.strip() and text.strip() for name, text in value.items()):
            raise ValueError("name at least one criterion, each with its question")
        return value

    @field_validator("scale")
    @classmethod
    def _from_worst_to_best(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(
                f"from {value[0]} to {value[1]} is no scale; write [worst, best], such as [1, 5]"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _address_without_a_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address such as http://localhost:11434/v1 is wanted")
        # Recipes are shared and printed in reports.
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "the address must hold no key or password; name an environment variable in "
                "api_key_env"
            )
        return value
