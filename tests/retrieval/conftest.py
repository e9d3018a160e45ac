from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.tiny import bert


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("bert") / "encoder")
