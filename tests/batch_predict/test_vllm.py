"""`predict --engine vllm`, with a stand-in that computes vLLM's documented interface by
transformers: outputs equal those of our engine, and a vLLM that computes something else is refused
before the first row."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from batch_predict.test_predict_file import read_csv, write_csv
from exporters.conftest import QUESTIONS, TEXTS, Make
from prooftune.batch_predict import predict, predict_file, vllm_engine, vllm_requests
from prooftune.bundle import golden
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.engine.scoring import label_tree
from prooftune.engine.scoring import score_labels as engine_scores
from prooftune.errors import Failure, UsageError
from prooftune.exporters.build import export
from prooftune.models import loading
from prooftune.recipe import Model
from prooftune.utils.files import read_json, write_json
from standins import vllm_module
from ways_out import follows, names, refused

LONG = "planet orbit " * 40
"""A text that is truncated."""


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[vllm_module.LLM]]:
    monkeypatch.setitem(sys.modules, "vllm", vllm_module.module())
    yield vllm_module.LLM
    vllm_module.LLM.distortion = staticmethod(vllm_module.unchanged)


def by_both_engines(bundle: Path, folder: Path, file: Path) -> list[list[dict[str, str]]]:
    """The rows that our engine writes, and those by vLLM."""
    written = []
    for engine in ("local", "vllm"):
        predict_file(bundle, file, folder / f"{engine}.csv", engine)
        written.append(read_csv(folder / f"{engine}.csv"))
    return written


def numbers(rows: list[dict[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows]


CALIBRATED_MEANS = {"scoring": {"calibration": True, "normalize": "length"}}
ANSWERS = {"task": "free-text-qa", "answering": {"max_new_tokens": 8}}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, CALIBRATED_MEANS], ids=["sums", "calibrated means"])
def test_labels_are_those_of_our_engine(
    make: Make, tmp_path: Path, vllm: type[vllm_module.LLM], options: dict[str, Any]
) -> None:
    bundle = make("llama3", **options)
    file = write_csv(tmp_path / "in.csv", ["text"], [[text] for text in (*TEXTS, "", LONG)])
    ours, theirs = by_both_engines(bundle, tmp_path, file)
    assert len(theirs) == len(TEXTS) + 2 and int(theirs[-1]["truncated_tokens"]) > 0
    for column in ("probability", "probability_World", "probability_Sci/Tech"):
        assert numbers(theirs, column) == pytest.approx(numbers(ours, column), abs=1e-5)
    for column in ("text", "label", "truncated_tokens"):
        assert [row[column] for row in theirs] == [row[column] for row in ours]
    # The merged model was loaded once, in the bundle's precision, and removed afterwards.
    [loaded] = vllm.loaded
    assert loaded["dtype"] == "float32" and not Path(str(loaded["model"])).exists()


@pytest.mark.slow
def test_generated_labels_and_answers_are_those_of_our_engine(
    make: Make, tmp_path: Path, vllm: type[vllm_module.LLM]
) -> None:
    labels = make("llama", scoring={"method": "generation", "max_new_tokens": 4})
    file = write_csv(tmp_path / "in.csv", ["text"], [[text] for text in TEXTS[:4]])
    ours, theirs = by_both_engines(labels, tmp_path, file)
    assert theirs == ours
    answers = make("llama3", **ANSWERS)
    rows = [[example.inputs["question"], example.inputs["context"]] for example in QUESTIONS[:3]]
    rows.append([*rows[0][:1], "the goal scored by match planet " * 60])  # several windows
    (tmp_path / "qa").mkdir()
    file = write_csv(tmp_path / "qa" / "in.csv", ["question", "context"], rows)
    ours, theirs = by_both_engines(answers, tmp_path / "qa", file)
    assert theirs == ours and len({row["answer"] for row in theirs}) > 1


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("limit", [128, 1])
def test_scores_of_labels_of_any_length(
    model_folders: dict[str, Path],
    vllm: type[vllm_module.LLM],
    monkeypatch: pytest.MonkeyPatch,
    normalize: bool,
    limit: int,
) -> None:
    """Labels of one and more tokens, of which one is the beginning of another."""
    monkeypatch.setattr(vllm_requests, "MAX_TOKEN_IDS", limit)
    labels, stop = [[5], [5, 6], [7, 8, 9], [7, 8, 10]], 2
    prefix, rows = [1, 20, 21], [[30, 31], [32]]
    model = loading.load_model(model_folders["llama"], Model(name="m", dtype="float32"))
    expected = torch.zeros(2, 4)
    for row_ids, scores in engine_scores(model, prefix, rows, labels, stop, normalize=normalize):
        expected[row_ids] = scores
    llm = vllm_requests.start(model_folders["llama"], torch.float32, 16)
    prompts = [prefix + row for row in rows]
    scores = vllm_requests.score_labels(llm, prompts, label_tree(labels, stop), normalize=normalize)
    torch.testing.assert_close(scores, expected.double(), atol=1e-5, rtol=0)
    # Two prompts; 7 nodes have a token behind them: the prompt's end, 5, 5 6, 7, 7 8, 7 8 9 and
    # 7 8 10. Three of them have two, which a limit of 1 splits.
    assert len(vllm.requests) == 2 * (7 if limit == 128 else 10)


def opposite(logits: torch.Tensor) -> torch.Tensor:
    return -logits


def shifted(logits: torch.Tensor) -> torch.Tensor:
    """Every token has the logit of the next."""
    return logits.roll(1, dims=-1)


def too_flat(logits: torch.Tensor) -> torch.Tensor:
    """The most likely label remains, its probability does not."""
    return logits / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "distortion", "figure"),
    [
        (CALIBRATED_MEANS, opposite, "of 10 golden rows get the bundle's answer; 98.0% must"),
        ({}, too_flat, "nats on average"),
        (ANSWERS, shifted, "of the tokens of the bundle's answers"),
    ],
    ids=["labels", "log-probabilities", "answers"],
)
def test_a_vllm_that_computes_something_else_is_refused_before_the_first_row(
    make: Make,
    tmp_path: Path,
    vllm: type[vllm_module.LLM],
    options: dict[str, Any],
    distortion: Callable[[torch.Tensor], torch.Tensor],
    figure: str,
) -> None:
    bundle = make("llama3", **options)
    row = {"text": "goal scored", "question": "goal?", "context": "the goal"}
    file = write_csv(tmp_path / "in.csv", list(row), [list(row.values())])
    vllm.distortion = staticmethod(distortion)
    with refused("Leave --engine out for Prooftune's own engine", Failure) as error:
        predict_file(bundle, file, tmp_path / "out.csv", "vllm")
    assert figure in str(error.value) and "vLLM 0.33.0" in str(error.value)
    assert not (tmp_path / "out.csv").exists()
    prompts = [row.prompt for row in golden.read(bundle / GOLDEN)]
    assert all(any(ids[: len(p)] == p for p in prompts) for ids in vllm.requests)
    # The ways out; the same command also works once vLLM computes the right thing.
    export_names = follows("`prooftune export --to vllm` runs the same weights without vLLM")
    assert names(export_names, str(error.value))
    assert export(bundle, "vllm", tmp_path / "export")["checked"]
    assert predict_file(bundle, file, tmp_path / "out.csv").rows == 1
    vllm.distortion = staticmethod(vllm_module.unchanged)
    assert predict_file(bundle, file, tmp_path / "out2.csv", "vllm").rows == 1


def test_without_vllm_or_with_an_older_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with refused("needs vLLM {…} or newer and a device that it supports: pip install"):
        predict_file(tmp_path / "no bundle", tmp_path / "in.csv", tmp_path / "out.csv", "vllm")
    monkeypatch.setitem(sys.modules, "vllm", vllm_module.module("0.11.2"))
    with refused("or newer, and {…} is installed: pip install"):
        predict._check_engine("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", vllm_module.module("1.0.0rc1"))
    predict._check_engine("vllm", None)
    with pytest.raises(UsageError, match="--workers is an option of --engine ray"):
        predict._check_engine("vllm", 2)


def test_kinds_of_bundles_that_vllm_does_not_compute() -> None:
    common: Any = {"task": "classification", "objective": "instruction", "method": "tfidf"}
    model: Any = {**common, "model": {"trust_remote_code": False}}
    assert vllm_engine.unsupported_reason(model) is None
    for manifest, reason in [
        ({**common, "encoder": {}}, "is an encoder"),
        ({**common, "classifier": {}}, "(tfidf) contains no language model"),
        ({**model, "objective": "head"}, "classification head"),
        ({**model, "objective": "head", "task": "multilabel"}, "classification head"),
        ({**model, "task": "extractive-qa"}, "constrained decoding"),
        ({**model, "model": {"trust_remote_code": True}}, "custom Python code"),
    ]:
        assert reason in (vllm_engine.unsupported_reason(manifest) or "")  # type: ignore[arg-type]


@pytest.mark.slow
def test_bundles_that_are_refused_work_with_our_engine(
    make: Make, tmp_path: Path, vllm: type[vllm_module.LLM]
) -> None:
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    head = make("llama", variant={"objective": "head"})
    with refused("Leave --engine out: Prooftune's own engine predicts with this bundle"):
        predict_file(head, file, tmp_path / "out.csv", "vllm")
    assert predict_file(head, file, tmp_path / "out.csv").rows == 1
    bare = make("llama3", bundle={"golden": 0})
    with refused("Leave --engine out, or run the study with bundle.golden: 64"):
        predict_file(bare, file, tmp_path / "bare.csv", "vllm")
    assert predict_file(bare, file, tmp_path / "bare.csv").rows == 1
    (bare / GOLDEN).write_text("\n")
    with pytest.raises(UsageError, match="holds no golden set"):
        vllm_engine.check_bundle(bare, read_manifest(bare))
    assert vllm.loaded == []


@pytest.mark.slow
def test_a_changed_prompt_is_found_before_the_model_is_loaded(
    make: Make, tmp_path: Path, vllm: type[vllm_module.LLM]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(make("llama3"), bundle)
    manifest = read_json(bundle / "bundle.json")
    manifest["rendering"]["template"] = "Something else: {text}"
    write_json(bundle / "bundle.json", manifest)
    file = write_csv(tmp_path / "in.csv", ["text"], [["goal scored"]])
    with pytest.raises(Failure, match=r"does not render as its golden set says\. template:"):
        predict_file(bundle, file, tmp_path / "out.csv", "vllm")
    assert vllm.loaded == []
