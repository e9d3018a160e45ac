"""A bundle answers as its facts say, and is refused where it would answer as something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bundle.making import changed
from prooftune.bundle.load import load
from prooftune.errors import Failure, UsageError
from prooftune.utils.files import read_json
from study.small import classifier


def test_probabilities_are_scaled_by_the_temperature_and_the_label_stays(
    bundle: Path, tmp_path: Path
) -> None:
    [scaled] = classifier(bundle).predict(["goal scored"])
    [plain] = classifier(changed(bundle, tmp_path / "b", temperature=None)).predict(["goal scored"])
    # The bundle's temperature is 2: probabilities go with their square roots.
    roots = {label: np.sqrt(p) for label, p in plain.probabilities.items()}
    assert scaled.probabilities == pytest.approx(
        {label: r / sum(roots.values()) for label, r in roots.items()}, abs=1e-6
    )
    assert (
        scaled.label
        == plain.label
        == max(scaled.probabilities, key=lambda label: scaled.probabilities[label])
    )
    assert scaled.probability == pytest.approx(scaled.probabilities[scaled.label])


def test_a_bundle_reads_strings_or_mappings_with_its_fields(
    bundle: Path, bundles: Callable[..., Path]
) -> None:
    one = load(bundle)
    assert one.predict(["goal"]) == one.predict([{"text": "goal", "other": 1}])  # type: ignore[dict-item]
    two = load(bundles({"head": "Headline", "body": "Body"}))
    with pytest.raises(
        UsageError,
        match="text 0: this bundle reads head, body; give a string for each, as a mapping, not str",
    ):
        two.predict(["goal"])
    with pytest.raises(UsageError, match="text 1: no body in it; it has head"):
        two.predict([{"head": "a", "body": "b"}, {"head": "a"}])
    with pytest.raises(UsageError, match="text 0: this bundle reads text; give a string, not int"):
        one.predict([3])  # type: ignore[list-item]


def test_another_base_model_than_the_tuned_one_is_refused(
    bundle: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    manifest = read_json(bundle / "bundle.json")
    other = changed(
        bundle, tmp_path / "b", model={**manifest["model"], "name": str(model_folders["llama3"])}
    )
    with pytest.raises(
        Failure, match="has other weights than the model this adapter was trained on"
    ):
        load(other)


def test_a_bundle_names_no_folder_of_this_machine_but_the_models_own_name(bundle: Path) -> None:
    manifest = read_json(bundle / "bundle.json")
    assert (
        read_json(bundle / "adapter_config.json")["base_model_name_or_path"]
        == manifest["model"]["name"]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a bundle: no bundle.json in it"),
        ("{", "cannot be read"),
        ("[]", "is a bundle of format None"),
        (
            '{"format": 99}',
            "is a bundle of format 99; this Prooftune reads formats 1 and 2. Update Prooftune.",
        ),
    ],
)
def test_what_is_no_bundle_of_ours_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert message in str(caught.value)
