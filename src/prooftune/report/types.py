"""The content of ``report.json``: a study's scores, and what else the page shows."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from prooftune.evaluation.score_types import Scores
from prooftune.variant_details import VariantDetails


class ReportedVariant(VariantDetails):
    """What a variant recorded about itself, and its kind; ``trainings``: of several trainings what
    every one recorded, while the rest is of the one that ships and the training costs of all."""

    kind: NotRequired[str]
    trainings: NotRequired[list[VariantDetails]]


class AuditFinding(TypedDict):
    """A finding of the data audit (`data.audit.findings.Finding`)."""

    code: str
    severity: str
    message: str
    rows: list[str]


class AuditRecord(TypedDict, total=False):
    """The content of ``audit.json``; counts by split, then by label."""

    findings: list[AuditFinding]
    rows: dict[str, int]
    balance: dict[str, dict[str, int]]
    lengths: dict[str, Any]
    truncation: dict[str, Any]


class ReportFacts(TypedDict):
    """All that a report shows; without an optional part its section is left out."""

    name: str
    scores: Scores
    recipe: NotRequired[str]
    notes: NotRequired[list[str]]
    seed: NotRequired[int]
    audit: NotRequired[AuditRecord]
    prooftune_version: NotRequired[str]
    created: NotRequired[str]
    variants: NotRequired[dict[str, ReportedVariant]]
    environment: NotRequired[dict[str, Any]]
    estimates: NotRequired[dict[str, dict[str, float]]]
