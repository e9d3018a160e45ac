"""The texts that variants are pretrained on: read, checked for test rows, handed to variants."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from prooftune import run_folder
from prooftune.data.audit.audit import raise_findings
from prooftune.data.audit.findings import Finding
from prooftune.data.audit.pretraining import Leak, PretrainingAudit, audit_pretraining
from prooftune.data.source_files import files_digest
from prooftune.data.unlabelled_texts import (
    UnlabelledText,
    read_unlabelled_texts,
    training_texts,
)
from prooftune.errors import UsageError
from prooftune.recipe import Pretraining, Recipe
from prooftune.run_folder import PRETRAINING_FOLDER
from prooftune.types import Example, Study
from prooftune.utils.disk_list import DiskBackedList
from prooftune.utils.files import fingerprint, read_json, write_json
from prooftune.utils.progress import notify
from prooftune.variants.context import PretrainingInputs

TEXTS, AUDIT, WEIGHTS = "texts", "audit.json", "weights"


def audit_texts(recipe: Recipe, study: Study, base: Path) -> list[Finding]:
    """Findings about the texts of all variants, for ``check``.

    Raises:
        UsageError: files cannot be read or hold no texts.
    """
    return [
        finding
        for name, settings in _with_files(recipe)
        for finding in _audit(recipe, study, name, settings, base).findings
    ]


def check_texts(
    recipe: Recipe, study: Study, base: Path, folder: Path, data_fingerprint: str
) -> None:
    """Check the texts of all variants before anything is computed, and write what was found into
    the run folder; nothing is repeated while texts and data are the same.

    Raises:
        UsageError: files cannot be read, or hold test rows.
    """
    findings: list[Finding] = []
    named = dict(_with_files(recipe))
    for part in (folder / PRETRAINING_FOLDER / TEXTS).glob("*"):
        if part.name not in named:  # of an earlier recipe, and not this study's findings
            shutil.rmtree(part)
    for name, settings in named.items():
        inputs = fingerprint(
            [data_fingerprint, settings.model_dump(), texts_digest(settings, base)]
        )
        part = folder / PRETRAINING_FOLDER / TEXTS / name
        if run_folder.is_stage_done(part, inputs):
            continue
        run_folder.begin_stage(part, inputs)
        audit = _audit(recipe, study, name, settings, base)
        write_json(
            part / AUDIT,
            {"findings": [asdict(f) for f in audit.findings], "leaked": audit.leaked},
        )
        findings += audit.findings
        # A study that stops here is checked again when it comes back.
        if not any(finding.severity == "error" for finding in audit.findings):
            run_folder.finish_stage(part, inputs)
    for finding in findings:
        if finding.severity != "error":
            notify(f"{finding.severity}: {finding.message}", "yellow")
    raise_findings(findings)


def texts_digest(settings: Pretraining, base: Path) -> object:
    """Changes when the files change; nothing for training rows, which are part of the data."""
    return None if settings.reads_training_rows else files_digest(settings.source(), base)


def pretraining_inputs(
    recipe: Recipe, name: str, train: Sequence[Example], base: Path, folder: Path
) -> PretrainingInputs | None:
    """The texts of a variant without those that are left out; None without ``pretrain``.

    Args:
        recipe, name: the variant.
        train: its training rows.
        base: folder of the recipe's relative paths.
        folder: of pretraining in the run.
    """
    settings = recipe.variants[name].pretrain
    if settings is None:
        return None
    if settings.reads_training_rows:
        texts, title = training_texts(train), "the training rows"
    else:
        texts = read_unlabelled_texts(settings, recipe.data, base)
        title = ", ".join(_file_name(path) for path in settings.source().paths)
        record = folder / TEXTS / name / AUDIT
        # The audit's list, and not a second search: both must agree.
        if _leak(recipe, settings) == "drop" and record.is_file():
            leaked = {*read_json(record)["leaked"]}
            texts = DiskBackedList(t for i, t in enumerate(texts) if i not in leaked)
    return PretrainingInputs(DiskBackedList(t.text for t in texts), title, folder / WEIGHTS)


def _audit(
    recipe: Recipe, study: Study, name: str, settings: Pretraining, base: Path
) -> PretrainingAudit:
    key = f"variants.{name}.pretrain"
    try:
        texts: Sequence[UnlabelledText] = read_unlabelled_texts(settings, recipe.data, base)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from None
    near = recipe.audit.near_duplicates
    audit = audit_pretraining(texts, study, name, _leak(recipe, settings), near)
    # A variant without texts would be the plain one under another name.
    if _leak(recipe, settings) == "drop" and len(audit.leaked) == len(texts):
        raise UsageError(f"{key}: every text holds test or validation rows, so that none is left")
    return audit


def _leak(recipe: Recipe, settings: Pretraining) -> Leak:
    return settings.leak or recipe.audit.leak


def _with_files(recipe: Recipe) -> Iterator[tuple[str, Pretraining]]:
    """Variants that are pretrained on files. Training rows are checked with the data."""
    for name, variant in recipe.variants.items():
        if variant.pretrain is not None and not variant.pretrain.reads_training_rows:
            yield name, variant.pretrain


def _file_name(path: str) -> str:
    # File names only: folders of this machine must not be published.
    if path.startswith(("hub:", "pypi:")):
        return path
    return path.replace("\\", "/").rpartition("/")[2]
