"""Model folders of the study tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prooftune.utils.files import read_json, write_json


@pytest.fixture(scope="session")
def learners(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny models, Gemma-2 with the soft-capping of the real one: a lower one keeps it from
    learning anything."""
    gemma = tmp_path_factory.mktemp("learners") / "gemma2"
    shutil.copytree(model_folders["gemma2"], gemma)
    config = read_json(gemma / "config.json")
    write_json(
        gemma / "config.json",
        {**config, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    )
    return {**model_folders, "gemma2": gemma}
