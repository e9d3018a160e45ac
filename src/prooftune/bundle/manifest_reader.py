"""Read `bundle.json` and validate it before anything is loaded.

A bundle may come from a stranger, so every field that later code relies on is checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from prooftune import recipe
from prooftune.bundle.manifest import AnyManifest, Manifest, is_language_model
from prooftune.errors import UsageError, nearest
from prooftune.recipe.data import LABEL_TASKS
from prooftune.recipe.error_costs import ErrorCosts
from prooftune.tasks.rendering import Rendering

READABLE_FORMATS = (1, 2)


MAX_MANIFEST_BYTES = 100_000_000
"""Largest ``bundle.json`` that is read; one with thousands of labels has a few megabytes."""


_Id = Annotated[int, Field(ge=0)]


class _Model(recipe.Model):
    sha256: str


class _Tokens(BaseModel):
    prompt: list[list[_Id] | str]
    labels: dict[str, Annotated[list[_Id], Field(min_length=1)]] = {}
    no_answer: list[_Id] = []
    stop: _Id


class _Abstention(BaseModel):
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None


class _CommonSchema(BaseModel):
    """Validates the fields that loading relies on; other fields are not checked."""

    task: recipe.Task
    labels: list[str]
    fields: Annotated[list[str], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    abstention: _Abstention | None = None
    label_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    costs: ErrorCosts | None = None

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        labels = self.labels
        # Several labels per text may be one, which applies or not.
        least = {"classification": 2, "multilabel": 1}.get(self.task)
        if least and (len(labels) < least or len(set(labels)) < len(labels)):
            count = "two" if least == 2 else "one"
            raise ValueError(f"'labels' must be {count} or more different names")
        named = {label for true, row in (self.costs or {}).items() for label in (true, *row)}
        if unknown := named - set(labels):
            raise ValueError(f"'costs' names '{min(unknown)}', which is not one of the labels")
        return self


class _Embedding(BaseModel):
    name: str
    sha256: str
    prompt: str


class _Classifier(BaseModel):
    features: Literal["none", "tfidf", "embedding"]
    classes: Annotated[list[str], Field(min_length=1)]
    embedding: _Embedding | None
    several: bool = False


class _ClassifierSchema(_CommonSchema):
    classifier: _Classifier

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        classes = self.classifier.classes
        if self.task not in LABEL_TASKS:
            raise ValueError(f"a classifier cannot have task: {self.task}")
        if self.classifier.several != (self.task == "multilabel"):
            raise ValueError(f"'classifier.several' contradicts task: {self.task}")
        if not set(classes) <= set(self.labels) or len(set(classes)) < len(classes):
            raise ValueError("'classifier.classes' must be different names from 'labels'")
        single = self.task == "classification" and len(classes) < 2
        if self.classifier.features != "none" and single:
            raise ValueError("'classifier.classes' must be two or more")
        return self


class _Encoder(BaseModel):
    name: str
    revision: str | None
    sha256: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    max_length: Annotated[int, Field(gt=2)]
    batch_tokens: Annotated[int, Field(gt=0)]
    trust_remote_code: bool = False


class _EncoderSchema(_CommonSchema):
    encoder: _Encoder

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if self.task not in LABEL_TASKS:
            raise ValueError(f"an encoder cannot have task: {self.task}")
        return self


class _LanguageModelSchema(_CommonSchema):
    objective: Literal["instruction", "head"]
    # `part` becomes a path in format 1, so only known names are allowed.
    part: Literal["adapter", "model", "base"]
    model: _Model
    quantization: dict[str, Any] | None
    rendering: Rendering
    tokens: _Tokens
    scoring: recipe.Scoring
    answering: recipe.Answering | None = None
    threshold: float | None = None
    retrieval: recipe.Retrieval | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        answers = self.task not in LABEL_TASKS
        if self.task == "multilabel" and self.objective != "head":
            raise ValueError("several labels per text need a head")
        if answers and self.answering is None:
            raise ValueError("a bundle that answers questions needs 'answering'")
        if answers and self.objective == "head":
            raise ValueError("a head cannot answer questions")
        if self.part == "base" and self.objective == "head":
            raise ValueError("an untuned model has no head")
        if not answers and tuple(self.labels) != self.rendering.labels:
            raise ValueError("'labels' and 'rendering.labels' differ")
        if not answers and list(self.tokens.labels) != self.labels:
            raise ValueError("'labels' and 'tokens.labels' differ")
        return self


def language_model_manifest(folder: Path) -> Manifest:
    """Read the manifest of a language model; for other bundles see `read_manifest`.

    Raises:
        UsageError: also if the bundle is a classifier without a language model.
    """
    manifest = read_manifest(folder)
    if not is_language_model(manifest):
        raise UsageError(
            f"{folder} ('{manifest['variant']}', {manifest['method']}) is a classifier without a "
            "language model. predict, serve, evaluate and publish work with it as it is, and its "
            "README.md has code that loads it without Prooftune"
        )
    return manifest


def read_manifest(folder: Path) -> AnyManifest:
    """Read and validate ``bundle.json`` of any kind of bundle.

    Args:
        folder: a bundle.

    Raises:
        UsageError: the folder is not a bundle, was written by a newer Prooftune, or its manifest is
            invalid.
    """
    path = folder / "bundle.json"
    text = _read_text(folder, path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    manifest: dict[str, Any] = content if isinstance(content, dict) else {}
    # The type is compared, too: True and 1.0 equal 1.
    if type(manifest.get("format")) is not int or manifest["format"] not in READABLE_FORMATS:
        raise UsageError(
            f"{folder} is a bundle of format {manifest.get('format')}; this Prooftune reads "
            f"formats {' and '.join(map(str, READABLE_FORMATS))}. Update Prooftune."
        )
    try:
        # The sections tell the kinds apart; a language model has neither.
        if "classifier" in manifest:
            # Strict: `true` is no number, and neither is "3".
            _ClassifierSchema.model_validate_json(text, strict=True)
        elif "encoder" in manifest:
            _EncoderSchema.model_validate_json(text, strict=True)
        else:
            _LanguageModelSchema.model_validate_json(text, strict=True)
            Rendering.from_json(manifest["rendering"])
    except ValidationError as error:
        problems = "\n".join(_describe_problems(error))
        raise UsageError(f"{path} is damaged:\n{problems}") from None
    except (TypeError, KeyError) as error:
        raise UsageError(f"{path} is damaged: rendering: {error}") from None
    return cast(AnyManifest, manifest)


def _read_text(folder: Path, path: Path) -> str:
    try:
        # Before it is read: a stranger's file could fill the memory.
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise UsageError(
                f"{path} has {size:,} bytes; Prooftune writes none above {MAX_MANIFEST_BYTES:,}"
            )
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(_explain_missing(folder)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _explain_missing(folder: Path) -> str:
    if not folder.exists():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        suggestion = nearest(folder.name, [path.name for path in siblings])
        return f"{folder}: no such folder{suggestion}"
    inner = folder / "bundle"
    hint = f" (its bundle is {inner})" if (inner / "bundle.json").is_file() else ""
    return f"{folder} is not a bundle: no bundle.json in it{hint}"


def _describe_problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False)[:10]:
        yield f"  - {'.'.join(map(str, problem['loc'])) or 'bundle.json'}: {problem['msg']}"
