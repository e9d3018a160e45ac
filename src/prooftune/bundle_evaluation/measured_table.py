"""What the tables of ``prooftune evaluate --table`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prooftune import recipe as recipes
from prooftune.bundle.classifier import LabelPrediction
from prooftune.bundle.manifest import AnyManifest
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle.qa import QAPrediction
from prooftune.bundle_evaluation.rows import LabelledRows, read_rows, sample_rows
from prooftune.recipe import Recipe
from prooftune.report.document import Document, render_html, render_markdown
from prooftune.utils.files import write_json, write_text


@dataclass(frozen=True, slots=True)
class TableRequest:
    """A bundle and labelled rows to measure it on.

    Attributes:
        bundle: the bundle's folder.
        file: the labelled file.
        text, label: columns, as for `evaluate_bundle`.
        limit: size of the random sample; None for the table's default.
    """

    bundle: Path
    file: str
    text: Sequence[str] | None = None
    label: str | None = None
    limit: int | None = None

    def manifest_and_recipe(self) -> tuple[AnyManifest, Recipe]:
        """The bundle's manifest and the recipe of its study."""
        return read_manifest(self.bundle), recipes.load(self.bundle / "recipe.yaml")[0]

    def read(self, default_limit: int | None = None) -> LabelledRows:
        """The rows, or a random sample of them.

        Raises:
            UsageError: the bundle or the file cannot be used.
        """
        manifest, recipe = self.manifest_and_recipe()
        rows = read_rows(self.file, manifest, recipe, self.text, self.label)
        limit = self.limit or default_limit
        return rows if limit is None else sample_rows(limit, recipe.seed, rows, None)[0]


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """A measured table.

    Attributes:
        name: name of its files: ``quantization``, ``batching``.
        facts: its figures, JSON-ready.
        document: the table and the verdict.
    """

    name: str
    facts: dict[str, Any]
    document: Document

    def write(self, folder: Path) -> None:
        """Write ``NAME.html``, ``NAME.json`` and ``NAME.md``."""
        facts = {**self.facts, "verdict": self.document.verdict}
        write_json(folder / f"{self.name}.json", facts)
        write_text(folder / f"{self.name}.md", render_markdown(self.document))
        write_text(folder / f"{self.name}.html", render_html(self.document))


def output_of(prediction: LabelPrediction | QAPrediction) -> str:
    """The label or the answer."""
    return prediction.label if isinstance(prediction, LabelPrediction) else prediction.answer
