"""Fine-tune Llama-family models on labelled text or questions, and prove that it helped.

    import prooftune

    result = prooftune.run("reviews.yaml")
    print(result.headline, result.verdict)
    prooftune.load(result.bundle).predict(["A film to remember."])

Functions: `run`, `check`, `init`, `compare`, `load`, `predict`, `evaluate`, `export`,
`base_model_folder`. Every error that a user can act on is a `UsageError` (wrong input) or a
`Failure` (the work could not be done), both of them `ProoftuneError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prooftune.api import InitResult, check, compare, init, run
from prooftune.bundle_api import (
    ExportResult,
    base_model_folder,
    evaluate,
    export,
    load,
    predict,
)
from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.utils.library_settings import set_library_defaults
from prooftune.version import __version__

if TYPE_CHECKING:
    from prooftune.batch_predict import Summary as PredictSummary
    from prooftune.bundle.classifier import Classifier, LabelPrediction
    from prooftune.bundle.qa import CitedPassage, QAPrediction, QuestionAnswerer
    from prooftune.bundle_evaluation.evaluate import BundleEvaluation
    from prooftune.data.audit.audit import AuditReport
    from prooftune.data.audit.findings import Finding
    from prooftune.evaluation.similarity import SimilarityEvaluator
    from prooftune.recipe import Recipe
    from prooftune.study.check import CheckReport
    from prooftune.study.compare import RunComparison
    from prooftune.study.pipeline import Result
    from prooftune.types import Example, Prediction, Study
    from prooftune.variants.endpoint_estimate import EndpointEstimate
    from prooftune.variants.estimates import CostEstimate

set_library_defaults()

_LAZY = {
    "LabelPrediction": "bundle.classifier",
    "QuestionAnswerer": "bundle.qa",
    "AuditReport": "data.audit.audit",
    "BundleEvaluation": "bundle_evaluation.evaluate",
    "CheckReport": "study.check",
    "Classifier": "bundle.classifier",
    "CostEstimate": "variants.estimates",
    "EndpointEstimate": "variants.endpoint_estimate",
    "Example": "types",
    "Finding": "data.audit.findings",
    "Prediction": "types",
    "PredictSummary": "batch_predict.predict:Summary",
    "Recipe": "recipe",
    "QAPrediction": "bundle.qa",
    "Result": "study.pipeline",
    "RunComparison": "study.compare",
    "SimilarityEvaluator": "evaluation.similarity",
    "CitedPassage": "bundle.qa",
    "Study": "types",
}
"""Public types, by the module that defines them. They are imported on first use: their modules
import torch, transformers and pydantic, which take seconds."""

__all__ = [
    "AuditReport",
    "BundleEvaluation",
    "CheckReport",
    "CitedPassage",
    "Classifier",
    "CostEstimate",
    "EndpointEstimate",
    "Example",
    "ExportResult",
    "Failure",
    "Finding",
    "InitResult",
    "LabelPrediction",
    "PredictSummary",
    "Prediction",
    "ProoftuneError",
    "QAPrediction",
    "QuestionAnswerer",
    "Recipe",
    "Result",
    "RunComparison",
    "SimilarityEvaluator",
    "Study",
    "UsageError",
    "__version__",
    "base_model_folder",
    "check",
    "compare",
    "evaluate",
    "export",
    "init",
    "load",
    "predict",
    "run",
]


if not TYPE_CHECKING:  # a type checker must see the imports above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'prooftune' has no attribute '{name}'")
        # `predict:Summary` has another name there.
        module, _, original = _LAZY[name].partition(":")
        value = getattr(import_module(f"prooftune.{module}"), original or name)
        # Stored, so that the next access does not come here.
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
