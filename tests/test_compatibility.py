"""Bundles, run folders and HTTP requests of version 0.1 keep working (tests/fixtures/v0_1)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

import prooftune
from prooftune.bundle import golden
from prooftune.bundle.manifest import base_quantization
from prooftune.cli import main
from prooftune.run_folder import read_predictions, read_study
from prooftune.utils.files import read_json
from serving.made import Live, live

FIXTURE = Path(__file__).parent / "fixtures" / "v0_1"
PREDICTIONS: dict[str, Any] = json.loads((FIXTURE / "predictions.json").read_text("utf-8"))
HTTP: dict[str, Any] = json.loads((FIXTURE / "http.json").read_text("utf-8"))
VOLATILE = {"id", "created"}
"""Fields of a reply that change with the time of the request."""


def assert_contains(new: Any, old: Any, where: str = "") -> None:
    """Every field of `old` is in `new` with the same value; `new` may have more fields."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and set(old) <= set(new), where
        for name, value in old.items():
            if name not in VOLATILE:
                assert_contains(new[name], value, f"{where}.{name}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        for i, (a, b) in enumerate(zip(new, old, strict=True)):
            assert_contains(a, b, f"{where}[{i}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, abs=1e-4), where
    else:
        assert new == old, where


@pytest.fixture(autouse=True)
def fixture_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundles name their base model by a path relative to the fixture."""
    monkeypatch.chdir(FIXTURE)


@pytest.fixture
def server() -> Iterator[Live]:
    bundles = {"topics": FIXTURE / "classification", "reader": FIXTURE / "qa"}
    with live(bundles) as running:
        yield running


@pytest.mark.parametrize("tuned", [True, False])
@pytest.mark.parametrize(("name", "inputs"), [("classification", "texts"), ("qa", "questions")])
def test_a_bundle_predicts_what_version_0_1_predicted(name: str, inputs: str, tuned: bool) -> None:
    recorded = PREDICTIONS[name]
    predictions = prooftune.load(FIXTURE / name).predict(recorded[inputs], tuned=tuned)
    new = json.loads(json.dumps([asdict(p) for p in predictions]))
    assert_contains(new, recorded["tuned" if tuned else "untuned"])


@pytest.mark.parametrize("name", ["classification", "qa"])
def test_facts_of_version_0_1_is_the_manifest(name: str) -> None:
    bundle = prooftune.load(FIXTURE / name)
    facts = read_json(FIXTURE / name / "bundle.json")
    assert bundle.facts is bundle.manifest
    assert {key: bundle.facts[key] for key in ("task", "variant", "fields")} == {
        key: facts[key] for key in ("task", "variant", "fields")
    }
    with pytest.raises(AttributeError):
        bundle.facts = facts  # type: ignore[misc]


@pytest.mark.parametrize("name", ["classification", "qa"])
def test_a_golden_set_is_read(name: str) -> None:
    rows = golden.read(FIXTURE / name / "golden.jsonl")
    assert len(rows) == 6
    bundle = prooftune.load(FIXTURE / name)
    outputs = [asdict(p) for p in bundle.predict([row.inputs for row in rows])]
    field = "label" if name == "classification" else "answer"
    assert [row.output for row in rows] == [p[field] for p in outputs]


def test_a_run_folder_is_read() -> None:
    study = read_study(FIXTURE / "run" / "data")
    assert [len(split) for split in study.splits().values()] == [36, 12, 18]
    predictions = read_predictions(FIXTURE / "run" / "variants" / "tuned" / "predictions.parquet")
    right = sum(p.output == e.target for p, e in zip(predictions, study.test, strict=True))
    scores = read_json(FIXTURE / "run" / "scores.json")
    accuracy = scores["variants"]["tuned"]["metrics"]["accuracy"]["value"]
    assert right / 18 == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.slow
def test_report_scores_a_run_folder_as_version_0_1_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(FIXTURE / "run", run)
    monkeypatch.setattr("sys.argv", ["prooftune", "report", str(run)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert (run / "report.html").is_file()
    old, new = read_json(FIXTURE / "run" / "report.json"), read_json(run / "report.json")
    assert (new["name"], new["seed"]) == (old["name"], old["seed"])
    # Sections may have new keys with defaults.
    assert_contains(yaml.safe_load(new["recipe"]), yaml.safe_load(old["recipe"]), "recipe")
    for variant, scores in old["scores"]["variants"].items():
        metrics = new["scores"]["variants"][variant]["metrics"]
        for name, figure in scores["metrics"].items():
            # Intervals are computed otherwise now, and the calibration error without its bias.
            value = metrics[name].get("plain", metrics[name]["value"])
            assert value == pytest.approx(figure["value"], abs=1e-4), (variant, name)
            assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]


def test_http_requests_get_the_fields_of_version_0_1(server: Live) -> None:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        for exchange in HTTP["exchanges"]:
            body = {} if exchange["body"] is None else {"json": exchange["body"]}
            reply = client.request(exchange["method"], exchange["path"], **body)
            assert reply.status_code == exchange["status"], exchange["path"]
            if exchange["path"] == "/metrics":
                types = [line for line in reply.text.splitlines() if line.startswith("# TYPE")]
                assert set(exchange["reply"]) <= {line.split()[2] for line in types}
            elif reply.status_code >= 400:
                # Messages may be worded better; programs go by the rest.
                new, old = reply.json()["error"], exchange["reply"]["error"]
                assert {**old, "message": ""} == {**new, "message": ""}
            else:
                json_reply = "json" in reply.headers["content-type"]
                content = reply.json() if json_reply else reply.text
                assert_contains(content, exchange["reply"], exchange["path"])
    assert set(HTTP["log_line"]) <= set(server.lines(1)[0])


@pytest.mark.parametrize(
    ("version", "options", "expected"),
    [
        ("0.1.0", {"load_in_4bit": True}, "fp4"),
        ("0.1.0", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ("0.2.0", {"load_in_4bit": True}, None),
        ("0.1.0", {"load_in_8bit": True}, None),
        ("0.1.0", None, None),
    ],
)
def test_four_bit_bundles_keep_the_quantisation_that_they_were_trained_on(
    version: str, options: dict[str, Any] | None, expected: str | None
) -> None:
    stored = base_quantization({"prooftune_version": version, "quantization": options})
    assert (stored or {}).get("bnb_4bit_quant_type") == expected
    if expected == "fp4":
        assert stored is not None and stored["bnb_4bit_use_double_quant"] is False
