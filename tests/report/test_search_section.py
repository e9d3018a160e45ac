"""The hyperparameter search in the report."""

from __future__ import annotations

from typing import Any, cast

import pytest

from prooftune.evaluation.score_types import Scores
from prooftune.report.search_section import search_section


def scores(metric: str, states: list[str], chosen: int = 0) -> Scores:
    """Scores with a search of one variant; trials that diverged have no value."""
    trials: list[dict[str, Any]] = [
        {
            "number": number,
            "state": state,
            "value": None if state == "diverged" else 0.5 + number / 100,
            "loss": None if state == "diverged" else 1.0,
            "seconds": 1.0,
            "values": {"training.learning_rate": 10.0**-number},
            "from_recipe": number == 0,
        }
        for number, state in enumerate(states)
    ]
    search = {"metric": metric, "rows": 40, "trials": trials, "chosen": chosen}
    return cast(Scores, {"search": {"tuned": search}})


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["complete", "complete"], "2 trials, 0 of them stopped early, in"),
        (["complete", "stopped", "complete"], "3 trials, 1 of them stopped early, in"),
        (["complete", "diverged", "stopped"], "3 trials, 1 of them stopped early, 1 diverged, in"),
        (["complete", "diverged", "diverged"], "3 trials, 0 of them stopped early, 2 diverged, in"),
    ],
)
def test_diverged_trials_were_not_stopped_early(states: list[str], sentence: str) -> None:
    section = search_section(scores("accuracy", states), {"tuned": "s0"})
    assert section is not None
    assert section["sentences"][0].startswith(f"tuned: {sentence}")


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("accuracy", "accuracy"),
        ("micro_f1", "micro F1"),
        ("macro_f1", "macro F1"),
        ("f1", "F1"),
        ("exact_match", "exact match"),
        ("loss", "loss"),
    ],
)
def test_every_metric_of_a_search_has_its_title(metric: str, title: str) -> None:
    section = search_section(scores(metric, ["complete"] * 2, chosen=1), {"tuned": "s0"})
    assert section is not None
    assert f"The chosen values reach {title} " in section["sentences"][0]
    assert section["tables"][0].headings[2] == title
    assert f"{title} on validation rows" in str(section["figure"])
