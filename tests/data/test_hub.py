"""Data sets and models by their names on the hub, from a stand-in on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standins.hub import Hub, Repository, serving

READ = """
import json, sys
from pathlib import Path
from prooftune.data.sources import read_source
from prooftune.errors import ProoftuneError
from prooftune.models.loading import check_hub_access, resolve
from prooftune.recipe import Source
results = []
for kind, options in json.loads(sys.stdin.read()):
    try:
        if kind == "data":
            rows = read_source(Source(**options), Path())
            results.append([[e.id, e.inputs, e.target] for e in rows.examples])
        elif kind == "access":
            results.append(check_hub_access(options["name"], None))
        else:
            results.append(str(resolve(**options)))
    except ProoftuneError as error:
        results.append([type(error).__name__, error.exit_code, str(error)])
print(json.dumps(results))
"""
LABELS = ("World", "Sports")


def parquet(folder: Path, texts: list[str], labels: list[int]) -> bytes:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))}
    )
    path = folder / "made.parquet"
    datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features).to_parquet(path)
    return path.read_bytes()


CARD = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train.parquet}
  - {split: test, path: small/test.parquet}
- config_name: other
  data_files:
  - {split: train, path: other/train.parquet}
---
A stand-in.
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    plain = {
        f"data/{split}-00000-of-00001.parquet": parquet(folder, texts, labels)
        for split, texts, labels in (("train", ["peace", "goal"], [0, 1]), ("test", ["vote"], [0]))
    }
    older = {"data/train-00000-of-00001.parquet": parquet(folder, ["older"], [1])}
    configured = {
        "README.md": CARD.encode(),
        "small/train.parquet": parquet(folder, ["s"], [0]),
        "small/test.parquet": parquet(folder, ["t"], [1]),
        "other/train.parquet": parquet(folder, ["o"], [1]),
    }
    hidden = {"data/test-00000-of-00001.parquet": parquet(folder, ["secret", "known"], [-1, 1])}
    model = {path.name: path.read_bytes() for path in model_folders["llama"].iterdir()}
    with serving() as served:
        served.datasets = {
            "owner/news": Repository({"main": plain, "v1": older}),
            "owner/configured": Repository({"main": configured}),
            "owner/hidden": Repository({"main": hidden}),
            "owner/gated": Repository({"main": plain}, gate=401),
        }
        served.models = {
            "owner/tiny": Repository({"main": {**model, "pytorch_model.bin": b"never wanted"}}),
            "owner/gated": Repository({"main": model}, gate=401),
            "owner/asked": Repository({"main": model}, gate=403),
        }
        yield served


def ask(folder: Path, url: str, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """Read data sets and resolve models in a process of its own: the libraries look at the
    environment once."""
    environment = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps(questions),
        env={**inherited, **environment},
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def data(name: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return "data", {"path": f"hub:{name}", **options}


@pytest.mark.slow
def test_hub_datasets_by_name(hub: Hub, tmp_path: Path) -> None:
    train, test, older, small, other = ask(
        tmp_path,
        hub.url,
        data("owner/news"),
        data("owner/news", split="test"),
        data("owner/news", revision="v1"),
        data("owner/configured", config="small", split="test"),
        data("owner/configured", config="other"),
    )
    assert train == [
        ["owner/news[train]:1", {"text": "peace"}, "World"],
        ["owner/news[train]:2", {"text": "goal"}, "Sports"],
    ]
    assert test == [["owner/news[test]:1", {"text": "vote"}, "World"]]
    assert older == [["owner/news[train]:1", {"text": "older"}, "Sports"]]
    assert (small[0][1:], other[0][1:]) == ([{"text": "t"}, "Sports"], [{"text": "o"}, "Sports"])


@pytest.mark.slow
def test_unknown_hub_datasets_are_usage_errors(hub: Hub, tmp_path: Path) -> None:
    answers = ask(
        tmp_path,
        hub.url,
        data("owner/nothing"),
        data("owner/news", split="tset"),
        data("owner/news", revision="v9"),
        data("owner/configured", config="tiny"),
        data("owner/configured"),
        data("owner/gated"),
        data("owner/hidden", split="test"),
        data("owner/news", text="txet"),
    )
    assert [answer[:2] for answer in answers] == [["UsageError", 2]] * len(answers), answers
    words = [
        ["'owner/nothing' cannot be found, or needs a login"],
        ["'owner/news'", "tset", "train", "test"],
        ["'owner/news'", "v9"],
        ["'owner/configured'", "tiny", "small", "other"],
        ["small", "other"],
        ["'owner/gated'", "needs a login (hf auth login)"],
        ["1 row without a label in column 'label': owner/hidden[test]:1"],
        ["owner/news[train] has no column 'txet'", "did you mean 'text'?"],
    ]
    for (_, _, message), wanted in zip(answers, words, strict=True):
        assert [w for w in wanted if w not in message] == [], message
        assert "\n" not in message


@pytest.mark.slow
def test_hub_models_by_name(hub: Hub, tmp_path: Path) -> None:
    from prooftune.models.loading import load_model, load_tokenizer
    from prooftune.recipe import Model

    [place] = ask(tmp_path, hub.url, ("model", {"name": "owner/tiny"}))
    assert Path(place).is_relative_to(tmp_path)
    assert load_tokenizer(Path(place)).eos_token == "</s>"
    assert load_model(Path(place), Model()).config.num_hidden_layers == 3  # type: ignore[union-attr]
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    # What was downloaded once is there without the hub.
    assert ask(tmp_path, "http://127.0.0.1:9", ("model", {"name": "owner/tiny"})) == [place]


@pytest.mark.slow
def test_unavailable_hub_models(hub: Hub, tmp_path: Path) -> None:
    names = ("nothing", "gated", "asked")
    missing, gated, forbidden = ask(
        tmp_path, hub.url, *(("model", {"name": f"owner/{name}"}) for name in names)
    )
    assert missing[:2] == ["UsageError", 2]
    assert "the hub has no model owner/nothing, or it is private" in missing[2]
    for kind, code, message in (gated, forbidden):
        assert (kind, code) == ("Failure", 1)
        assert "is gated: accept its licence at http://127.0.0.1:" in message
        assert "then log in with 'hf auth login'" in message


@pytest.mark.slow
def test_access_is_asked_without_a_download(hub: Hub, tmp_path: Path) -> None:
    names = ("tiny", "nothing", "gated", "asked")
    hub.requests.clear()
    granted, *refused = ask(
        tmp_path, hub.url, *(("access", {"name": f"owner/{name}"}) for name in names)
    )
    assert granted is None
    assert not [request for request in hub.requests if "/resolve/" in request]
    # The same sentences as those of a download.
    assert refused == ask(
        tmp_path, hub.url, *(("model", {"name": f"owner/{name}"}) for name in names[1:])
    )
    # Models that need no hub, and an unreachable hub, are no findings.
    local = ("access", {"name": "smollm2-135m-instruct"}), ("access", {"name": str(tmp_path)})
    away = ("access", {"name": "owner/gated"})
    assert ask(tmp_path, "http://127.0.0.1:9", *local, away) == [None, None, None]


@pytest.mark.slow
def test_an_unreachable_hub_fails_within_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    answers = ask(
        tmp_path, "http://127.0.0.1:9", data("owner/news"), ("model", {"name": "owner/tiny"})
    )
    assert [answer[:2] for answer in answers] == [["Failure", 1]] * 2
    assert "cannot reach the hub for dataset 'owner/news'" in answers[0][2]
    assert "the hub could not deliver owner/tiny (it cannot be reached" in answers[1][2]
    assert all("HF_ENDPOINT" in answer[2] for answer in answers)
    assert time.monotonic() - start < 30
