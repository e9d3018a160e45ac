"""What a bundle says of itself, checked before anything in it is loaded: a bundle may come from
anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from prooftune import recipe
from prooftune.errors import UsageError, nearest
from prooftune.tasks.rendering import Rendering

FORMAT = 1
GOLDEN = "golden.jsonl"
"""The golden set's file in a bundle."""
MAX_MANIFEST_BYTES = 100_000_000
"""Bytes of a ``bundle.json``: one with thousands of labels has some megabytes."""

_Id = Annotated[int, Field(ge=0)]


class _Model(recipe.Model):
    sha256: str


class _Tokens(BaseModel):
    prompt: list[list[_Id] | str]
    labels: dict[str, Annotated[list[_Id], Field(min_length=1)]] = {}
    stop: _Id


class _Abstention(BaseModel):
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None


class _Facts(BaseModel):
    """The types of ``bundle.json``; what else stands in it is not looked at."""

    task: recipe.Task
    labels: list[str]
    fields: Annotated[list[str], Field(min_length=1)]
    objective: Literal["instruction", "head"]
    # These two become paths: nothing but the two names that `save` writes.
    part: Literal["adapter", "model"]
    model: _Model
    quantization: dict[str, Any] | None
    rendering: Rendering
    tokens: _Tokens
    scoring: recipe.Scoring
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    abstention: _Abstention | None = None
    answering: recipe.Answering | None = None
    threshold: float | None = None
    retrieval: recipe.Retrieval | None = None

    @model_validator(mode="after")
    def _fit(self) -> Self:
        answers = self.task != "classification"
        if answers and self.answering is None:
            raise ValueError("a bundle that answers questions needs 'answering'")
        if answers and self.objective == "head":
            raise ValueError("a head cannot answer questions")
        if not answers and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise ValueError("'labels' must be two or more different names")
        if not answers and tuple(self.labels) != self.rendering.labels:
            raise ValueError("'labels' and 'rendering.labels' differ")
        if not answers and list(self.tokens.labels) != self.labels:
            raise ValueError("'labels' and 'tokens.labels' differ")
        return self


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a bundle's ``bundle.json``, of the types that everything behind it relies on.

    Raises:
        UsageError: the folder is no bundle, or one of a newer Prooftune, or what stands in it
            cannot be.
    """
    place = folder / "bundle.json"
    try:
        if place.stat().st_size > MAX_MANIFEST_BYTES:
            raise UsageError(
                f"{place} has {place.stat().st_size:,} bytes; no bundle.json of ours is as long"
            )
        text = place.read_text(encoding="utf-8")
        content = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            near = (
                nearest(folder.name, [one.name for one in folder.parent.iterdir()])
                if folder.parent.is_dir()
                else ""
            )
            raise UsageError(f"{folder}: no such folder{near}") from None
        hint = (
            f" (its bundle is {folder / 'bundle'})"
            if (folder / "bundle" / "bundle.json").is_file()
            else ""
        )
        raise UsageError(f"{folder} is no bundle: no bundle.json in it{hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{place} cannot be read: {error}") from None
    manifest: dict[str, Any] = content if isinstance(content, dict) else {}
    if manifest.get("format") != FORMAT:
        raise UsageError(
            f"{folder} is a bundle of format {manifest.get('format')}; this Prooftune reads format "
            f"{FORMAT}. Update it."
        )
    try:
        _Facts.model_validate_json(text, strict=True)
        Rendering.from_json(manifest["rendering"])
    except ValidationError as error:
        raise UsageError(f"{place} is damaged:\n{_listed(error)}") from None
    except (TypeError, KeyError) as error:
        raise UsageError(f"{place} is damaged: rendering: {error}") from None
    return manifest


def _listed(error: ValidationError) -> str:
    return "\n".join(_problems(error))


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:10]:
        yield f"  - {'.'.join(map(str, problem['loc'])) or 'bundle.json'}: {problem['msg']}"
