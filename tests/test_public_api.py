"""The names of ``import prooftune``, and that they are light to import and typed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune.study.pipeline import Result

FUNCTIONS = {
    "run",
    "check",
    "init",
    "compare",
    "load",
    "predict",
    "evaluate",
    "export",
    "base_model_folder",
}
ERRORS = {"ProoftuneError", "UsageError", "Failure"}
TYPES = {
    "LabelPrediction",
    "QuestionAnswerer",
    "AuditReport",
    "BundleEvaluation",
    "CheckReport",
    "Classifier",
    "CostEstimate",
    "EndpointEstimate",
    "Example",
    "ExportResult",
    "Finding",
    "InitResult",
    "Prediction",
    "PredictSummary",
    "Recipe",
    "QAPrediction",
    "Result",
    "RunComparison",
    "SimilarityEvaluator",
    "CitedPassage",
    "Study",
}


def test_public_names() -> None:
    assert set(prooftune.__all__) == FUNCTIONS | ERRORS | TYPES | {"__version__"}
    assert set(prooftune.__all__) <= set(dir(prooftune))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_public_function_is_typed_and_documented(name: str) -> None:
    function = getattr(prooftune, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    documentation = inspect.getdoc(function) or ""
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert parameter.name in documentation
    assert "Raises:" in documentation


@pytest.mark.parametrize("name", sorted(TYPES | ERRORS))
def test_every_public_type_is_a_documented_class(name: str) -> None:
    public = getattr(prooftune, name)
    assert inspect.isclass(public) and public.__doc__


def test_the_export_function_survives_importing_the_exporters() -> None:
    import prooftune.exporters.build

    assert callable(prooftune.export)


def test_import_loads_no_heavy_library() -> None:
    script = "import sys, prooftune, prooftune.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    heavy = {"torch", "transformers", "numpy", "pydantic", "pyarrow", "sklearn", "datasets"}
    assert done.returncode == 0 and not loaded & heavy


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fine_tune'"):
        _ = prooftune.fine_tune  # type: ignore[attr-defined]


@pytest.mark.slow
def test_init_writes_a_recipe_and_refuses_to_overwrite_it(tmp_path: Path) -> None:
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\n" + "".join(f"film {i},{'ab'[i % 2]}\n" for i in range(40)))
    written = prooftune.init(data, tmp_path / "recipe.yaml")
    assert written.recipe.is_file() and written.guesses
    with pytest.raises(prooftune.UsageError, match="exists"):
        prooftune.init(data, written.recipe)
    assert prooftune.init(data, written.recipe, force=True).recipe == written.recipe


@pytest.mark.slow
def test_check_and_run_return_typed_results(tmp_path: Path) -> None:
    data = tmp_path / "reviews.csv"
    data.write_text(
        "text,label\n"
        + "".join(f"film {i} {'bad' if i % 2 else 'good'},{'ab'[i % 2]}\n" for i in range(60))
    )
    recipe = {
        "name": "reviews",
        "data": {"train": str(data), "text": "text", "label": "label"},
        "variants": {"majority": None, "tfidf": None},
    }
    report = prooftune.check(recipe)
    assert report.ok and report.estimates == []
    assert sum(map(len, report.study.splits().values())) == 60
    result = prooftune.run(recipe, tmp_path / "run")
    assert result.bundle is None and result.report.is_file()
    comparison = prooftune.compare(f"{tmp_path}/run:tfidf", f"{tmp_path}/run:majority")
    assert comparison.metric == "accuracy" and comparison.n == len(report.study.test)
    assert comparison.difference.value == pytest.approx(
        comparison.first_mean - comparison.second_mean
    )
    assert "exact McNemar" in str(comparison)


class _Tables(HTMLParser):
    """Row count and texts of the tables in a fragment; fails on unbalanced tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows, self.texts = 0, [""]
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_the_verdict_and_the_table_escaped() -> None:
    def variant(value: float) -> dict[str, object]:
        figure = {"value": value, "low": value - 0.1, "high": value + 0.1}
        return {"metrics": {"accuracy": figure}, "kind": "tfidf", "n": 10}

    scores: Any = {
        "task": "classification",
        "primary": "accuracy",
        "groups": None,
        "n": 10,
        "seed": 0,
        "confidence": 0.95,
        "verdict": {"headline": "It helped.", "sentence": "a < b & c"},
        "variants": {"<b>tuned": variant(0.8), "tfidf": variant(0.5)},
        "comparisons": [],
    }
    html = Result(Path("runs/x"), scores, Path("runs/x/report.html"), None)._repr_html_()
    shown = _Tables(html)
    assert shown.open == [] and shown.rows == 3
    assert "<b>tuned" in shown.texts and "a < b & c" in " ".join(shown.texts)
    assert any(text.startswith("80.0% (70.0") and "90.0" in text for text in shown.texts)
