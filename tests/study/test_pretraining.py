"""Language modelling on unlabelled texts before tuning: `pretrain` of a variant."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import prooftune
from prooftune import recipe as recipes
from prooftune.data.audit.pretraining import audit_pretraining, find_parts
from prooftune.data.splits import load_splits
from prooftune.data.unlabelled_texts import UnlabelledText, read_unlabelled_texts
from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.run_folder import read_study
from prooftune.study.check import check
from prooftune.training import objective
from prooftune.training.objective import TuningModule
from prooftune.training.rows import make_collator
from prooftune.training.tuning_trainer import TuningTrainer
from prooftune.types import Example, Study
from prooftune.utils.files import read_json
from prooftune.variants.context import PretrainingInputs, VariantContext
from prooftune.variants.pretraining import language_modelling_rows, pretrain, pretraining_folder
from study.small import classifier, details_of, outputs_of, small_recipe, write_rows

SENTENCES = ["the cat sat on a mat", "goal scored match won", "planet orbit science phone"]


def pretrained_recipe(model: Path, folder: Path, pretrain: Any, **options: Any) -> dict[str, Any]:
    """A tuned variant with and one without pretraining."""
    variants = {"tuned": {"kind": "tuned"}, "adapted": {"kind": "tuned", "pretrain": pretrain}}
    return small_recipe(model, folder, variants=variants, **options)


def write_texts(path: Path, texts: list[str], column: str = "text") -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([[column], *([text] for text in texts)])
    return path


# -- rows ----------------------------------------------------------------------------------------


def test_every_token_is_predicted_once_in_pieces_of_a_text(model_folders: dict[str, Path]) -> None:
    tokenizer = loading.load_tokenizer(model_folders["llama3"])
    text = " ".join(SENTENCES)
    ids = [
        tokenizer.bos_token_id,
        *tokenizer(text, add_special_tokens=False).input_ids,
        tokenizer.eos_token_id,
    ]
    rows = language_modelling_rows([text, ""], tokenizer, 5)
    *pieces, empty = rows
    assert [token for row in pieces for token in row.targets] == ids[1:]
    assert [token for row in pieces for token in row.ids] == ids[:-1]
    assert all(len(row) <= 5 and row.label_positions == [*range(len(row))] for row in pieces)
    assert len(pieces) == math.ceil((len(ids) - 1) / 5)
    assert (empty.ids, empty.targets) == (ids[:1], ids[-1:])


def test_the_loss_is_that_of_transformers(model_folders: dict[str, Path]) -> None:
    folder = model_folders["llama"]
    tokenizer = loading.load_tokenizer(folder)
    rows = language_modelling_rows(SENTENCES, tokenizer, 64)
    model = loading.load_model(folder, recipes.Model(name=str(folder), dtype="float32"))
    module = TuningModule(model)
    with torch.no_grad():
        ours = module(**make_collator([], module.packed, module.pad_multiple)([*rows]))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    raw, total, count = AutoTokenizer.from_pretrained(folder), 0.0, 0
    for text in SENTENCES:
        ids = torch.tensor([[*raw(text).input_ids, raw.eos_token_id]])
        with torch.no_grad():
            total += plain(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert int(ours["count"]) == count
    assert ours["loss_sum"].item() == pytest.approx(total, rel=1e-4)


def test_logits_in_parts_give_the_same_loss_and_gradients(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folders["llama"]
    rows = [*language_modelling_rows(SENTENCES, loading.load_tokenizer(folder), 64)]
    model = loading.load_model(folder, recipes.Model(name=str(folder), dtype="float32"))
    module = TuningModule(model)
    batch = make_collator([], module.packed, module.pad_multiple)(rows)
    batch["weights"] = torch.linspace(0.5, 1.5, len(batch["labels"]))

    def loss_and_gradients() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = module(**batch)["loss_sum"]
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(gradients)

    whole, expected = loss_and_gradients()
    monkeypatch.setattr(objective, "MAX_LOGIT_TARGETS", 4)
    monkeypatch.setattr(objective, "LOGIT_TARGETS", 3)
    parts, gradients = loss_and_gradients()
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


# -- texts and leaks -----------------------------------------------------------------------------


def test_texts_of_tables_and_plain_files(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one two\nthree\n\n", encoding="utf-8")
    (tmp_path / "paragraphs.txt").write_text("\none\ntwo\n\n\n three\n", encoding="utf-8")
    write_texts(tmp_path / "table.csv", ["a", "", "b"], "body")
    (tmp_path / "rows.jsonl").write_text('{"headline": "h", "text": "t", "n": 1}\n')
    data = recipes.Data(train=recipes.Source(path="x"), text=["headline", "text"])

    def read(**options: Any) -> list[tuple[str, str]]:
        settings = recipes.Pretraining(**options)
        return [(t.text, t.source) for t in read_unlabelled_texts(settings, data, tmp_path)]

    assert read(file="lines.txt") == [("one two", "lines.txt:1"), ("three", "lines.txt:2")]
    assert [t for t, _ in read(file="paragraphs.txt")] == ["one\ntwo", "three"]
    # The only column; the study's columns; a column by name.
    assert read(file="table.csv") == [("a", "table.csv:2"), ("b", "table.csv:4")]
    assert read(file="rows.jsonl") == [("h\nt", "rows.jsonl:1")]
    assert read(file="rows.jsonl", text="headline") == [("h", "rows.jsonl:1")]
    assert len(read(file=["lines.txt", "table.csv"])) == 4
    with pytest.raises(UsageError, match=r"rows\.jsonl has no column 'headlin'.*did you mean"):
        read(file="rows.jsonl", text="headlin")
    (tmp_path / "odd.jsonl").write_text('{"x": "h", "y": "t"}\n')
    with pytest.raises(UsageError, match=r"no column 'headline' or 'text'.*Found 2: 'x', 'y'"):
        read(file="odd.jsonl")
    write_texts(tmp_path / "blank.csv", ["", " "])
    with pytest.raises(UsageError, match=r"blank\.csv"):
        read(file="blank.csv")


def test_rows_are_found_whole_and_inside_longer_texts() -> None:
    long = "one two three four five six seven eight nine"
    rows = ["short", long, "", "one two three four five six seven eight ten"]
    texts = ["short", "a short text", long, f"before {long} after", f"before {long}ty", ""]
    assert find_parts(texts, rows) == [(0, 0), (2, 1), (3, 1)]


def test_copies_of_test_rows_are_errors_and_of_validation_rows_warnings() -> None:
    words = [f"word{i}" for i in range(40)]
    near = " ".join([*words[:38], "other", "end"])
    study = Study(
        [],
        [Example("v", {"text": "a validation text"}, "x", "v.csv:2")],
        [
            Example("t", {"text": " ".join(words)}, "x", "t.csv:2"),
            Example("q", {"text": "Is it? Yes."}, "x", "t.csv:3"),
        ],
        ["x"],
        [],
    )
    texts = [
        UnlabelledText(near, "p:1"),
        UnlabelledText("is it, yes", "p:2"),
        UnlabelledText("A validation text!", "p:3"),
        UnlabelledText("something else altogether", "p:4"),
    ]

    def found(leak: Any, threshold: float | None = 0.7) -> Any:
        return audit_pretraining(texts, study, "adapted", leak, threshold)

    error, warning = found("error").findings
    assert (error.severity, warning.severity) == ("error", "warning")
    assert error.rows == ["p:1 = t.csv:2", "p:2 = t.csv:3"] and warning.rows == ["p:3 = v.csv:2"]
    assert "1 of them word for word, 1 nearly" in error.message and "leak: drop" in error.message
    assert found("error").leaked == [0, 1, 2]
    assert found("error", None).leaked == [1, 2]
    assert [f.severity for f in found("drop").findings] == ["info", "info"]
    assert [f.severity for f in found("allow").findings] == ["warning", "warning"]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"kind": "tfidf", "pretrain": "x"}, "'pretrain' does not apply to kind: tfidf"),
        ({"kind": "encoder", "pretrain": "x"}, "encoders are pretrained by filling in masked"),
        ({"kind": "tuned", "adapter": "tuned", "pretrain": "x"}, "'pretrain' contradicts adapter"),
        (
            {"kind": "tuned", "objective": "reward", "from": "tuned", "pretrain": "x"},
            "'pretrain' contradicts from: give it to 'tuned'",
        ),
        ({"kind": "tuned", "pretrain": {"fil": "x"}}, "unknown key .did you mean .file."),
        ({"kind": "tuned", "pretrain": {"file": "x", "num_train_epochs": 0}}, "num_train_epochs"),
    ],
)
def test_wrong_options_are_refused(variant: dict[str, Any], message: str) -> None:
    values = {
        "name": "x",
        "data": {"train": "train.csv"},
        "variants": {"tuned": None, "adapted": variant},
    }
    with pytest.raises(UsageError, match=message):
        recipes.parse(values, "test")


@pytest.mark.slow
def test_unusable_files_stop_before_anything_is_computed(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    def message(pretrain: Any) -> str:
        values = pretrained_recipe(model_folders["llama"], tmp_path, pretrain)
        with pytest.raises(UsageError) as refused:
            prooftune.run(values, out=tmp_path / "run")
        assert not (tmp_path / "run" / "variants").exists()
        return str(refused.value)

    write_texts(tmp_path / "other.csv", ["a b"], "body")
    (tmp_path / "two.csv").write_text("x,y\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    key = "variants.adapted.pretrain: "
    assert "did you mean 'other.csv'" in message(str(tmp_path / "othr.csv"))
    assert message(str(tmp_path / "empty.csv")).startswith(key)
    assert "empty" in message(str(tmp_path / "empty.csv"))
    assert "has no column 'text'" in message(str(tmp_path / "two.csv"))
    assert "every text holds test or validation rows" in message(str(tmp_path / "test.csv"))
    leaky = message({"file": str(tmp_path / "test.csv"), "leak": "error"})
    assert "60 texts hold test rows, word for word" in leaky


# -- the whole path ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_with_pretraining_bundles_one_adapter_and_is_resumed(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    texts = write_rows(tmp_path / "texts.csv", 60, seed=9)
    pretrain = {"file": str(texts), "num_train_epochs": 2, "max_length": 16}
    values = pretrained_recipe(learners["llama"], tmp_path, pretrain)
    values["bundle"] = {"variant": "adapted"}
    result = prooftune.run(values, out=tmp_path / "run")
    details = details_of(result.folder, "adapted")
    record = details["pretraining"]
    assert (record["texts"], record["source"], record["epochs"]) == (60, "texts.csv", 2)
    assert 1 < record["perplexity_after"] < 0.9 * record["perplexity_before"]
    assert [entry for entry in record["log_history"] if "loss" in entry]
    assert details["without_pretraining"] == "tuned"
    assert details["cost"]["train_seconds"] > record["seconds"]
    assert "pretraining" not in details_of(result.folder, "tuned")
    report = (tmp_path / "run" / "report.md").read_text("utf-8")
    assert "Pretraining" in report and "adapted" in report
    [weights] = (tmp_path / "run" / "pretraining" / "weights").iterdir()
    assert not (weights / "checkpoints").exists()
    stored = load_file(weights / "pretrained.safetensors")
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in stored.items())

    # Another training option trains again, on the same pretrained weights.
    stamp = (weights / "pretrained.safetensors").stat().st_mtime_ns
    before = outputs_of(result.folder, "tuned")
    values["training"] = {**values.get("training", {}), "weight_decay": 0.0, "seed": 0}
    values["variants"]["adapted"]["training"] = {"num_train_epochs": 1}
    again = prooftune.run(values, out=tmp_path / "run")
    assert (weights / "pretrained.safetensors").stat().st_mtime_ns == stamp
    assert outputs_of(again.folder, "tuned") == before
    # One adapter on the published base model holds both stages.
    assert again.bundle is not None
    manifest = read_json(again.bundle / "bundle.json")
    assert (manifest["variant"], manifest["part"]) == ("adapted", "adapter")
    card = (again.bundle / "README.md").read_text("utf-8")
    assert "pretraining: language modelling on 60 texts of texts.csv" in card
    texts_of_test = [e.inputs["text"] for e in read_study(again.folder / "data").test]
    predicted = [p.label for p in classifier(again.bundle).predict(texts_of_test)]
    assert predicted == outputs_of(again.folder, "adapted")


@pytest.mark.slow
def test_a_head_starts_from_pretrained_weights_of_the_training_rows(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    for method in ("lora", "full"):
        folder = tmp_path / method
        variants = {
            "head": {
                "kind": "tuned",
                "objective": "head",
                "method": method,
                "pretrain": {"file": "train", "max_length": 16},
            }
        }
        values = small_recipe(learners["llama"], folder, variants=variants)
        if method == "full":
            values["lora"] = {}
        result = prooftune.run(values, out=folder / "run")
        assert details_of(result.folder, "head")["pretraining"]["source"] == "the training rows"
        assert result.bundle is not None
        outputs = prooftune.load(result.bundle).predict(["goal scored match won", "stocks fell"])
        assert len(outputs) == 2


def pretraining_context(model: Path, folder: Path, data: Path) -> tuple[VariantContext, Any]:
    recipe = recipes.parse(pretrained_recipe(model, data, {"file": "x", "max_length": 16}), "test")
    study = load_splits(recipe, data)
    inputs = PretrainingInputs([e.inputs["text"] for e in study.train], "x", folder)
    context = VariantContext(recipe.for_variant("adapted"), study, folder, pretraining=inputs)
    return context, recipe.variants["adapted"]


@pytest.mark.slow
def test_a_killed_pretraining_resumes_to_the_same_weights(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    save = TuningTrainer._save_checkpoint

    def save_and_die(self: Any, *arguments: Any, **named: Any) -> None:
        save(self, *arguments, **named)
        raise Killed

    weights = []
    for name in ("whole", "killed"):
        context, variant = pretraining_context(learners["llama"], tmp_path / name, tmp_path)
        if name == "killed":
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                patch.setattr(TuningTrainer, "_save_checkpoint", save_and_die)
                pretrain(context, variant, "adapted")
            [folder] = (tmp_path / name).iterdir()
            assert [p.name for p in folder.iterdir()] == ["checkpoints"]
        pretrain(context, variant, "adapted")
        [folder] = (tmp_path / name).iterdir()
        weights.append((folder / "pretrained.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_weights_are_shared_by_what_would_be_pretrained_alike(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    context, variant = pretraining_context(model_folders["llama"], tmp_path, tmp_path)

    def folder(of: VariantContext = context, **options: Any) -> Path:
        return pretraining_folder(of, variant.model_copy(update=options), "adapted")

    assert folder() == folder(objective="head") == folder(training={"num_train_epochs": 9})
    others = [
        folder(lora={"r": 2}),
        folder(method="dora"),
        folder(training={"weight_decay": 0.5}),
        folder(pretrain=recipes.Pretraining(file="x", max_length=17)),
        folder(replace(context, training=1)),
        folder(replace(context, pretraining=PretrainingInputs(["one"], "x", tmp_path))),
    ]
    assert len({folder(), *others}) == 7


def test_other_parameters_are_refused(model_folders: dict[str, Path]) -> None:
    folder = model_folders["llama"]
    model = loading.load_model(folder, recipes.Model(name=str(folder), dtype="float32"))
    module = TuningModule(model)
    state = module.trainable_state()
    head = {"model.score.weight": torch.zeros(1)}
    changed = {name: value + 1 for name, value in state.items()}
    module.start_from({**changed, **head})
    assert all(torch.equal(module.trainable_state()[name], changed[name]) for name in state)
    layer = next(name for name in state if ".layers." in name)
    with pytest.raises(Failure, match="other trainable parameters"):
        module.start_from({name: value for name, value in state.items() if name != layer})


@pytest.mark.slow
def test_check_names_leaks_and_estimates_pretraining(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    texts = write_texts(tmp_path / "texts.csv", SENTENCES * 2000)
    plain = pretrained_recipe(learners["llama"], tmp_path, str(texts))
    report = check(recipes.parse(plain, "test"), tmp_path)
    assert report.ok and report.estimates is not None
    seconds = {item.name: item.train_seconds for item in report.estimates}
    # The texts have ten times the tokens of the training rows, in all epochs.
    assert seconds["adapted"] > 2 * seconds["tuned"]
    leaky = pretrained_recipe(
        learners["llama"], tmp_path, {"file": str(tmp_path / "test.csv"), "leak": "error"}
    )
    found = check(recipes.parse(leaky, "test"), tmp_path)
    assert not found.ok
    [error] = [f for f in found.audit.findings if f.severity == "error"]
    assert "60 texts hold test rows" in error.message
