"""The recipe section that configures the LLM judge."""

from __future__ import annotations

from pydantic import Field, field_validator

from prooftune.recipe.base import Section
from prooftune.recipe.endpoint import (
    QUEUE_SECONDS,
    SLOWEST_TOKENS_PER_SECOND,
    EnvironmentVariable,
    check_url,
)

CRITERIA = {
    "coherence": (
        "Is the answer clear, well ordered and free of contradictions and broken sentences?"
    ),
    "instruction_following": (
        "Does the answer do what was asked: this question, in the form and length it asks for, and "
        "nothing else?"
    ),
    "correctness": (
        "Is what the answer says true? Where a reference answer is given, the same facts as there "
        "are correct, in whatever words; where a context is given, what contradicts it is wrong."
    ),
}
"""Default criteria, in the words of the judge prompt: name -> question."""


class Judge(Section):
    """A language model that scores answers and compares pairs of answers (LLM-as-a-judge)."""

    model: str = Field(min_length=1)
    """Model name at the endpoint (``deepseek-r1:8b``), or a local model."""
    base_url: str | None = None
    """URL of an OpenAI-compatible endpoint: ``http://localhost:11434/v1`` (Ollama), a vLLM or
    llama.cpp server. Default: run a local model."""
    api_key_env: EnvironmentVariable | None = None
    """Environment variable that holds the API key. Default: no key."""
    criteria: dict[str, str] = CRITERIA
    """Criterion -> the question that the judge answers with a score; or a list of names of built-in
    criteria."""
    scale: tuple[int, int] = (1, 5)
    """Lowest and highest score; scores are whole numbers."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Sampling temperature. 0: greedy decoding."""
    max_tokens: int = Field(default=1024, gt=0)
    """Maximum tokens per response, reasoning included. A response cut off at this limit counts as a
    failed judgement."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds per request, from start to end, streaming included. Default: 60, and one second for
    every 5 tokens of `max_tokens`, so that a model that writes 5 tokens a second can use them all.
    """
    deadline: float = Field(default=3600.0, gt=0)
    """Seconds for all requests of one variant. Requests that miss the deadline count as failed; the
    next run sends them again."""
    retries: int = Field(default=3, ge=0)
    """Number of retries after a timeout, a lost connection, or status 408, 429 or 5xx."""
    concurrency: int = Field(default=4, gt=0, le=256)
    """Number of concurrent requests."""
    rows: int | None = Field(default=200, gt=0)
    """Test rows to judge, sampled with the seed. ``null``: all."""
    human: str | None = None
    """CSV file of human scores, with the columns ``id``, ``criterion``, ``score`` and, if several
    variants were scored, ``variant``. The report then shows the agreement between the judge and the
    humans. Without ``variant`` the scores count for the answers of the judged variant."""

    @property
    def request_seconds(self) -> float:
        """Seconds that one request may take."""
        if self.timeout is not None:
            return self.timeout
        return QUEUE_SECONDS + self.max_tokens / SLOWEST_TOKENS_PER_SECOND

    @field_validator("criteria", mode="before")
    @classmethod
    def _expand_criterion_names(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        unknown = [str(name) for name in value if name not in CRITERIA]
        if unknown:
            raise ValueError(
                f"unknown criterion {', '.join(unknown)}; built-in criteria: "
                f"{', '.join(CRITERIA)}. Write your own as 'name: the question that the judge "
                "answers'"
            )
        return {name: CRITERIA[name] for name in value}

    @field_validator("criteria")
    @classmethod
    def _require_criteria(cls, value: dict[str, str]) -> dict[str, str]:
        if not value or not all(name.strip() and text.strip() for name, text in value.items()):
            raise ValueError("give at least one criterion, each with its question")
        return value

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError(
                f"{list(value)} is not a scale; write [lowest, highest], such as [1, 5]"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        return check_url(value)
