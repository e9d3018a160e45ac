"""Every kind of variant as a bundle: predict, serve, evaluate, publish, export and plain libraries
give the answers of the study."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from starlette.testclient import TestClient

import prooftune
from prooftune import recipe as recipes
from prooftune.bundle import golden
from prooftune.bundle.classifier import Classifier
from prooftune.bundle.manifest import GOLDEN
from prooftune.bundle.publish import plan_upload
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.errors import Failure, UsageError
from prooftune.evaluation.score_types import Scores, metric_difference
from prooftune.run_folder import read_predictions, read_result, read_study
from prooftune.serving.app import Options
from prooftune.serving.server import build_service
from prooftune.study.evaluation_stage import bundle_variant, shipped_variant
from prooftune.utils.files import read_json, write_json
from retrieval.tiny import bert
from study.small import small_recipe
from study.test_embedding_variant import fruit_or_law
from study.test_questions import write_extractive
from ways_out import refused

LABEL_VARIANTS = {
    "majority": None,
    "tfidf": None,
    "embedding": {"model": ""},
    "zero-shot": None,
    "few-shot": {"shots": 2},
    "prompted": {"candidates": ["{text}", "Text: {text}"], "validation_rows": 10},
    "tuned": None,
    "tuned-prompt": {
        "kind": "prompted",
        "adapter": "tuned",
        "candidates": ["Text: {text}", "{text}"],
        "validation_rows": 10,
    },
}
QUESTION_VARIANTS = {
    "zero-shot": None,
    "few-shot": {"shots": 2},
    "tuned": None,
    "tuned-prompt": {
        "kind": "prompted",
        "adapter": "tuned",
        "candidates": ["{question} {context}", "{context} {question}"],
        "validation_rows": 10,
    },
}


@dataclass(frozen=True)
class Run:
    """A finished study and a function's worth of state to bundle its variants."""

    values: dict[str, Any]
    folder: Path
    scores: Scores

    def bundle(self, name: str) -> Path:
        """The bundle of one variant, written as `run` writes it."""
        recipe = recipes.parse({**self.values, "bundle": {"variant": name}})
        study = read_study(self.folder / "data")
        results = [
            read_result(self.folder / "variants" / n, v.system, 1, v.adapter)
            for n, v in recipe.variants.items()
        ]
        path = bundle_variant(recipe, study, results, self.scores, self.folder)
        assert path is not None and read_json(path / "bundle.json")["variant"] == name
        return path

    def test_file(self, folder: Path) -> Path:
        source = Path(self.values["data"]["test"])
        (folder / source.name).write_bytes(source.read_bytes())
        return folder / source.name


@pytest.fixture(scope="module")
def labelled(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("kinds")
    values = small_recipe(model_folders["llama"], folder)
    values["data"] = {
        split: str(fruit_or_law(folder / f"{split}.csv", size, seed))
        for seed, (split, size) in enumerate({"train": 60, "validation": 20, "test": 30}.items())
    }
    values["audit"] = {"leak": "allow"}
    values["training"]["num_train_epochs"] = 4
    model = str(bert(folder / "encoder"))
    values["variants"] = {**LABEL_VARIANTS, "embedding": {"model": model}}
    result = prooftune.run(values, folder / "run")
    return Run(values, result.folder, result.scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABEL_VARIANTS)
def test_a_bundle_of_labels_answers_as_its_variant_everywhere(
    labelled: Run, tmp_path: Path, name: str
) -> None:
    bundle = labelled.bundle(name)
    study = read_study(labelled.folder / "data")
    texts = [e.inputs["text"] for e in study.test]
    expected = read_predictions(labelled.folder / "variants" / name / "predictions.parquet")
    labels = [p.output for p in expected]

    loaded = prooftune.load(bundle)
    assert isinstance(loaded, Classifier)
    scored = loaded.score(loaded.examples(texts), tuned=True, description=None)
    assert [p.output for p in scored] == labels
    change = np.subtract([p.log_probs for p in scored], [p.log_probs for p in expected])
    assert np.abs(change).max() < 1e-3
    predictions = loaded.predict(texts)
    assert [p.label for p in predictions] == labels

    summary = prooftune.predict(bundle, labelled.test_file(tmp_path), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as handle:
        assert [row["predicted_label"] for row in csv.DictReader(handle)] == labels
    assert summary.rows == len(texts)

    service = build_service({"it": bundle}, Options())
    try:
        client = TestClient(service.app)
        reply = client.post("/v1/classify", json={"texts": texts[:8]}).json()
        assert [r["label"] for r in reply["results"]] == labels[:8]
        assert reply["results"][0]["probabilities"] == pytest.approx(
            predictions[0].probabilities, abs=1e-4
        )
        assert client.get("/v1/models").json()["data"][0]["id"] == "it"
    finally:
        service.close()

    evaluation = prooftune.evaluate(bundle, labelled.test_file(tmp_path))
    own = labelled.scores["variants"][name]["metrics"]["accuracy"]["value"]
    assert evaluation.metrics["accuracy"]["value"] == own

    upload = plan_upload(bundle, "me/it")
    assert {"bundle.json", "README.md", GOLDEN} <= set(upload.files)
    assert "THIS_FOLDER" in upload.card and str(labelled.folder) not in upload.card
    rows = golden.read(bundle / GOLDEN)
    again = golden.make_rows(golden.load_reference(bundle), rows_of(rows, study.validation))
    assert [r.output for r in again] == [r.output for r in rows] and len(rows) == 20


def rows_of(rows: list[golden.GoldenRow], examples: Any) -> list[Any]:
    by_id = {example.id: example for example in examples}
    return [by_id[row.id] for row in rows]


@pytest.mark.slow
def test_a_prompt_chosen_for_tuned_weights_is_the_best_for_them_on_validation_rows(
    labelled: Run,
) -> None:
    folder = labelled.folder / "variants" / "tuned-prompt"
    details = read_json(folder / "details.json")
    best = max(details["prompts_tried"], key=lambda trial: trial["quality"])
    assert read_json(folder / "rendering.json")["template"] == best["template"]
    assert (
        details["weights_sha256"]
        == read_json(labelled.folder / "variants" / "tuned" / "details.json")["weights_sha256"]
    )
    variant = labelled.scores["variants"]["tuned-prompt"]
    assert variant["kind"] == "tuned"  # judged like every tuned variant
    assert details["description"].startswith("the weights trained as tuned, with the best of 2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tfidf", "majority"])
def test_a_classifier_without_language_model_loads_without_torch(labelled: Run, name: str) -> None:
    code = (
        f"import sys, prooftune\n"
        f"b = prooftune.load({str(labelled.bundle(name))!r})\n"
        "print(b.predict(['apple pear'])[0].label)\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.splitlines()[1] == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tfidf", "embedding"])
def test_the_cards_code_gives_the_same_probabilities_without_prooftune(
    labelled: Run, name: str
) -> None:
    bundle = labelled.bundle(name)
    card = (bundle / "README.md").read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.S)[1]
    assert "prooftune" not in code
    variables: dict[str, Any] = {}
    exec(code.replace("THIS_FOLDER", str(bundle)), variables)
    texts = ["apple pear plum", "law court judge", "law apple stone"]
    loaded = prooftune.load(bundle)
    assert isinstance(loaded, Classifier)
    scored = loaded.score(loaded.examples(texts), tuned=True, description=None)
    for row, prediction in zip(variables["probabilities"](texts), scored, strict=True):
        mine = dict(zip(loaded.labels, np.exp(prediction.log_probs), strict=True))
        # Prooftune embeds in bfloat16 where the machine has it.
        assert row == pytest.approx(mine, abs=0.02)


@pytest.mark.slow
def test_an_export_of_a_classifier_without_language_model_is_refused(
    labelled: Run, tmp_path: Path
) -> None:
    # What works instead is followed above, in `..._answers_as_its_variant_everywhere`.
    with refused("--to {…}: {…} ('{…}', {…}) contains no language model, and every export format"):
        prooftune.export(labelled.bundle("tfidf"), "merged", tmp_path / "out")


@pytest.mark.slow
def test_an_untuned_prompt_is_exported_with_its_model(labelled: Run, tmp_path: Path) -> None:
    bundle = labelled.bundle("few-shot")
    assert not list(bundle.glob("*.safetensors"))  # the model is loaded by its name
    assert prooftune.export(bundle, "merged", tmp_path / "out").agreement == 1.0
    notes = " ".join(plan_upload(bundle, "me/it").notes)
    assert "holds the 2 training rows that the prompt shows" in notes


@pytest.mark.slow
def test_an_untuned_prompt_has_no_other_base_model(labelled: Run) -> None:
    for name, reason in {
        "zero-shot": "is the untuned model itself",
        "tfidf": "no language model",
    }.items():
        loaded = prooftune.load(labelled.bundle(name))
        assert isinstance(loaded, Classifier)
        with pytest.raises(UsageError, match=reason):
            loaded.predict(["apple"], tuned=False)


@pytest.mark.slow
def test_a_bundle_that_differs_from_its_variant_is_not_written(labelled: Run) -> None:
    file = labelled.folder / "variants" / "tfidf" / "vocabulary.json"
    words = read_json(file)
    write_json(file, [words[-1], *words[1:-1], words[0]])
    try:
        with pytest.raises(Failure, match=r"bundle of tfidf was not written"):
            labelled.bundle("tfidf")
    finally:
        write_json(file, words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: (b / "classifier.safetensors").write_bytes(b"x"), "no usable classifier"),
        (lambda b: write_json(b / "vocabulary.json", ["apple"]), "do not fit vocabulary.json"),
        (lambda b: (b / "vocabulary.json").unlink(), "no usable classifier"),
        (
            lambda b: write_json(
                b / "bundle.json",
                {
                    **read_json(b / "bundle.json"),
                    "classifier": {"features": "tfidf", "classes": ["x"], "embedding": None},
                },
            ),
            r"classes' must be different names from 'labels'",
        ),
    ],
)
def test_damaged_classifiers_are_refused(labelled: Run, damage: Any, message: str) -> None:
    bundle = labelled.bundle("tfidf")
    damage(bundle)
    with pytest.raises(UsageError, match=message):
        prooftune.load(bundle)


def scores_of(figures: dict[str, float], tuned: str | None = None) -> Scores:
    scores = {
        "primary": "accuracy",
        "verdict": {"best_tuned": tuned},
        "variants": {
            name: {
                "validation_quality": value,
                "metrics": {"accuracy": {"value": 0.0, "low": 0.0, "high": 0.0}},
            }
            for name, value in figures.items()
        },
    }
    return cast(Scores, scores)


def test_which_variant_ships() -> None:
    values = {
        "name": "x",
        "data": {"train": "a.csv", "text": "text", "label": "label"},
        "variants": ["tuned", "zero-shot", "tfidf"],
    }
    figures = {"tuned": 0.9, "zero-shot": 0.5, "tfidf": 0.9}

    def shipped(variant: str | None, tuned: str | None, figures: dict[str, float]) -> str | None:
        bundle = {} if variant is None else {"variant": variant}
        return shipped_variant(
            recipes.parse({**values, "bundle": bundle}), scores_of(figures, tuned)
        )

    assert shipped(None, "tuned", figures) == "tuned"
    assert shipped(None, None, figures) is None
    assert shipped("zero-shot", "tuned", figures) == "zero-shot"
    assert shipped("best", "tuned", figures) == "tfidf"  # of equally good ones, the cheapest
    assert shipped("best", "tuned", {**figures, "tuned": 0.91}) == "tuned"
    with pytest.raises(UsageError, match=r"'tfdf' is not a variant that can be served.*tfidf"):
        shipped("tfdf", "tuned", figures)


@pytest.fixture(scope="module")
def questions(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("questions")
    files = {
        split: str(write_extractive(folder / f"{split}.jsonl", count, seed))
        for seed, (split, count) in enumerate(
            {"train": 60, "validation": 16, "test": 20}.items(), 1
        )
    }
    values = {
        "name": "q",
        "task": "extractive-qa",
        "model": {"name": str(model_folders["llama"]), "dtype": "float32"},
        "data": files,
        "lora": {"r": 8, "lora_alpha": 32},
        "training": {"learning_rate": 1e-2, "num_train_epochs": 4},
        "evaluation": {"resamples": 200},
        "prompt": {"max_length": 64, "template": "{context} {question}"},
        "answering": {"no_answer": "no", "max_new_tokens": 4},
        "variants": QUESTION_VARIANTS,
    }
    result = prooftune.run(values, folder / "run")
    return Run(values, result.folder, result.scores)


def card_answer(bundle: Path, inputs: dict[str, str], change: tuple[str, str] = ("", "")) -> str:
    """What the code in a bundle's card answers.

    Args:
        change: part of the code, and what takes its place.
    """
    blocks = (bundle / "README.md").read_text("utf-8").split("```python")[1:]
    code = next(b.split("```")[0] for b in blocks if "import prooftune" not in b)
    assert change[0] in code
    code = code.replace(*change).replace("THIS_FOLDER", str(bundle))
    names: dict[str, Any] = {}
    exec(code.replace("THE_BASE_MODEL", str(prooftune.base_model_folder(bundle))), names)
    answer: str = names["answer"](inputs)
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTION_VARIANTS)
def test_a_bundle_of_answers_answers_as_its_variant_everywhere(
    questions: Run, tmp_path: Path, name: str
) -> None:
    bundle = questions.bundle(name)
    study = read_study(questions.folder / "data")
    asked = [e.inputs for e in study.test]
    loaded = prooftune.load(bundle)
    assert isinstance(loaded, QuestionAnswerer)
    answers = [p.answer for p in loaded.predict(asked)]
    own = questions.scores["variants"][name]["metrics"]["exact"]["value"]
    evaluation = prooftune.evaluate(bundle, questions.test_file(tmp_path))
    assert evaluation.metrics["exact"]["value"] == own

    prooftune.predict(bundle, questions.test_file(tmp_path), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as handle:
        assert [row["answer"] for row in csv.DictReader(handle)] == answers

    service = build_service({"it": bundle}, Options())
    try:
        reply = TestClient(service.app).post("/v1/answer", json={"questions": asked[:5]}).json()
        assert [r["answer"] for r in reply["results"]] == answers[:5]
    finally:
        service.close()
    assert "bundle.json" in plan_upload(bundle, "me/it").files

    # The card's code, as printed; and where no threshold turns answers into none.
    assert [card_answer(bundle, inputs) for inputs in asked[:6]] == answers[:6]
    own_threshold = repr(loaded.manifest["threshold"] or 0.0)
    loaded.manifest["threshold"] = 1e9
    given = [p.answer for p in loaded.predict(asked[:6])]
    assert all(given)
    change = f"> {own_threshold} else", "> 1e9 else"
    assert [card_answer(bundle, inputs, change) for inputs in asked[:6]] == given


@pytest.mark.slow
def test_bundles_that_answer_questions_are_compared_on_the_same_rows(
    questions: Run, tmp_path: Path
) -> None:
    shutil.copytree(questions.bundle("zero-shot"), tmp_path / "zero-shot")
    bundle = questions.bundle("tuned")
    evaluation = prooftune.evaluate(
        bundle, questions.test_file(tmp_path), against=tmp_path / "zero-shot", out=tmp_path / "out"
    )
    assert evaluation.comparison is not None and evaluation.comparison["n"] == 20
    own, other = (
        questions.scores["variants"][name]["metrics"]["f1"]["value"]
        for name in ("tuned", "zero-shot")
    )
    difference = metric_difference(evaluation.comparison, "f1")
    assert own is not None and other is not None
    assert difference is not None and difference["value"] is not None
    sign = 1 if evaluation.comparison["a"] == str(bundle) else -1
    assert sign * difference["value"] == pytest.approx(own - other, abs=1e-6)
    assert "on the same rows" in evaluation.verdict
    assert "By " not in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_a_majority_answer_to_questions_does_not_ship() -> None:
    with pytest.raises(UsageError, match=r"'majority' is not a variant that can be served"):
        recipes.parse(
            {
                "name": "q",
                "task": "extractive-qa",
                "data": {"train": "a.jsonl"},
                "variants": ["majority", "tuned"],
                "bundle": {"variant": "majority"},
            }
        )


def test_a_prompt_is_not_chosen_for_a_classification_head() -> None:
    with pytest.raises(UsageError, match=r"adapter: 'head' has a classification head"):
        recipes.parse(
            {
                "name": "x",
                "data": {"train": "a.csv", "text": "text", "label": "label"},
                "variants": {
                    "head": {"kind": "tuned", "objective": "head"},
                    "chosen": {"kind": "prompted", "adapter": "head"},
                },
            }
        )
