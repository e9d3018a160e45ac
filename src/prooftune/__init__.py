"""Prooftune: fine-tune Llama-family models on labelled text, and prove that it helped.

import prooftune
result = prooftune.run("reviews.yaml")
print(result.verdict)
prooftune.load(result.bundle).predict(["A film to remember."])
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.version import __version__

if TYPE_CHECKING:
    from prooftune.bundle.load import Classifier
    from prooftune.bundle.qa import QuestionAnswerer
    from prooftune.evaluation.similarity import SimilarityEvaluator
    from prooftune.study.pipeline import Result

__all__ = ["SimilarityEvaluator", "__version__", "load", "run"]


def run(
    recipe: str | Path | dict[str, Any],
    out: str | Path | None = None,
    overrides: list[str] | None = None,
) -> Result:
    """Run a study: a recipe's file, the name of a shipped one, or the recipe as a dictionary.

    Args:
        recipe: what to run.
        out: the run folder; ``runs/NAME`` if None.
        overrides: ``dotted.key=value`` strings, as for ``--set``.

    Where a launcher has started several processes (docs/scale.md), the first returns; the others
    help it and end here.

    Raises:
        prooftune.errors.UsageError: the recipe or the data is wrong.
        prooftune.errors.Failure: the work could not be done.
    """
    from prooftune import recipe as recipes
    from prooftune.study import pipeline
    from prooftune.utils import distributed

    with distributed.process_group() as leads:
        if not leads:
            raise SystemExit
        if isinstance(recipe, dict):
            parsed, base = recipes.parse(recipe, overrides=overrides or []), Path()
        else:
            parsed, base = recipes.load(recipe, overrides or [])
        return pipeline.run(parsed, base, Path(out) if out is not None else None)


def load(bundle: str | Path) -> Classifier | QuestionAnswerer:
    """Load a bundle; ``.predict(texts)`` gives labels with probabilities, or answers to questions.

    Raises:
        prooftune.errors.UsageError: the folder is no bundle, or holds what a bundle may not hold.
    """
    from prooftune.bundle.load import load as load_bundle

    return load_bundle(Path(bundle))


def __getattr__(name: str) -> Any:
    # Found when it is asked for: it brings libraries that `import prooftune` must not wait for.
    if name == "SimilarityEvaluator":
        from prooftune.evaluation.similarity import SimilarityEvaluator

        return SimilarityEvaluator
    raise AttributeError(f"module 'prooftune' has no attribute '{name}'")
