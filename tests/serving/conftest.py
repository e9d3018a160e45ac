"""One server for the tests that only ask, over bundles of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from bundle.making import changed, make_bundle
from retrieval.tiny import bert
from serving.made import Live, head_bundle, live, reading_bundle, searching_bundle


@pytest.fixture(scope="session")
def folders(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Bundles by name; all but the one with a head are adapters of one base."""
    root, model = tmp_path_factory.mktemp("served"), model_folders["llama"]
    topics = make_bundle(root / "topics", model)
    return {
        "topics": changed(topics, root / "sure", abstention={"threshold": 0.6}),
        "news": make_bundle(root / "news", model, {"head": "Headline", "body": "Body"}),
        "spoken": make_bundle(
            root / "spoken", model, scoring={"method": "generation", "max_new_tokens": 2}
        ),
        "head": head_bundle(root / "head", model),
        "reader": reading_bundle(root / "reader", model),
        "library": searching_bundle(root / "library", model, bert(root / "encoder")),
    }


@pytest.fixture(scope="session")
def server(folders: dict[str, Path]) -> Iterator[Live]:
    with live(folders) as running:
        yield running


@pytest.fixture
def client(server: Live) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as one:
        yield one
