"""Another study in the same folder: what the first came to is kept beside it, and never passes for
the second's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe
from prooftune.errors import Failure
from prooftune.study import archive, pipeline
from prooftune.study.variant_stage import VariantStage
from prooftune.utils.files import read_json
from study.small import small_recipe
from ways_out import follows, names


@pytest.mark.slow
def test_other_settings_keep_the_report_and_the_bundle_of_before(
    learners: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output: list[str] = []
    monkeypatch.setattr(archive, "notify", lambda sentence, style: output.append(sentence))
    values = small_recipe(learners["llama"], tmp_path)
    folder = tmp_path / "run"

    def run(epochs: int) -> pipeline.Result:
        values["training"]["num_train_epochs"] = epochs
        return pipeline.run(recipe.parse(values), Path(), folder)

    run(2)
    first = {
        name: (folder / name).read_bytes() for name in ("report.json", "report.html", "recipe.yaml")
    }
    card = (folder / "bundle" / "README.md").read_bytes()
    run(2)
    assert not (folder / "earlier").exists(), "the same study again replaces nothing"
    first["report.json"], first["report.html"] = (
        (folder / "report.json").read_bytes(),
        (folder / "report.html").read_bytes(),
    )

    with monkeypatch.context() as broken, pytest.raises(Failure, match="stopped"):
        broken.setattr(VariantStage, "run", _stop)
        run(1)
    stored = folder / "earlier" / "1"
    assert {name: (stored / name).read_bytes() for name in first} == first
    assert (stored / "bundle" / "README.md").read_bytes() == card
    assert not (folder / "bundle").exists() and not (folder / "report.html").exists(), (
        "they would pass for the new study's"
    )

    run(1)
    assert [path.name for path in (folder / "earlier").iterdir()] == ["1"], (
        "a study that was not finished is none to keep"
    )
    run(3)
    assert sorted(path.name for path in (folder / "earlier").iterdir()) == ["1", "2"]
    assert "num_train_epochs: 1" in (folder / "earlier" / "2" / "recipe.yaml").read_text()
    assert read_json(folder / "report.json")["scores"]["n"] == 60
    changed = (
        ("training.num_train_epochs 2, now 1", stored),
        ("training.num_train_epochs 1, now 3", folder / "earlier" / "2"),
    )
    for sentence, (what, place) in zip(output, changed, strict=True):
        assert (
            f"{folder} held a study with other settings ({what}): its report and bundle are now "
            f"in {place}." in sentence
        )
    told = len(output)
    apart = follows("Give --out another folder to keep studies apart.")
    assert all(names(apart, sentence) for sentence in output)
    values["training"]["num_train_epochs"] = 1
    values["variants"] = ["majority"]
    pipeline.run(recipe.parse(values), Path(), tmp_path / "apart")
    assert len(output) == told and not (tmp_path / "apart" / "earlier").exists()


def _stop(*_: Any) -> None:
    raise Failure("stopped")
