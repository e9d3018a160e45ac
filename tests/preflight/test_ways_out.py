"""Messages that name a way out for an option: what they name leaves nothing to complain of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from preflight.test_checker import parsed
from preflight.test_fields import VALUES
from prooftune import recipe as recipes
from prooftune.preflight import checker, lora, precision, quantization, trackers, training
from prooftune.preflight.learning_curve import check_learning_curve
from prooftune.preflight.trackers import TRACKERS, is_available
from prooftune.training import arguments
from prooftune.training.trainer import train
from prooftune.types import Example, Study
from ways_out import follows, follows_table, names, refused

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")

FLAGS = ("inference_mode", "use_qalora", "use_bdlora")
REMOVED: list[tuple[str, Any]] = [
    *(("training", {key: value}) for key, value in VALUES.items()),
    *(("lora", {key: True if key in FLAGS else {"x": 1}}) for key in lora.REFUSED),
    *(("lora", {"init_lora_weights": v}) for v in ("eva", "corda", "lora_ga", "loftq")),
    *(("quantization", {"load_in_8bit": True, key: True}) for key in quantization.REFUSED),
]
CHANGED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    (
        {"training": {"report_to": ["clearml"]}},
        follows("{…} is not installed, or not set up: pip install {…}, or report_to: none"),
        {"training": {"report_to": "none"}},
    ),
    (
        {"training": {"report_to": "tensorbord"}},
        follows("no tracker '{…}'{…}: one of {…}, all or none"),
        {"training": {"report_to": "tensorboard"}},
    ),
    (
        {"training": {"metric_for_best_model": "acuracy"}},
        follows("'{…}' is not measured during training{…}: one of {…}"),
        {"training": {"metric_for_best_model": "macro_f1"}},
    ),
    (
        {"training": {"eval_strategy": "no"}, "early_stopping": 2},
        follows("{…} is no, so nothing is evaluated; remove one of them"),
        {"training": {"eval_strategy": "no"}},
    ),
    (
        {"training": {"eval_strategy": "no"}, "early_stopping": 2},
        "remove one of them",
        {"early_stopping": 2},
    ),
    (
        {"training": {"train_sampling_strategy": "batch_rebalance"}},
        follows("'{…}' is not supported: one of {…}"),
        {"training": {"train_sampling_strategy": "random"}},
    ),
    (
        {"training": {"fsdp": "full_shard"}},
        follows("start them with torchrun (docs/scale.md), or remove it"),
        {},
    ),
    *(
        ({"training": {key: -1.0}}, words, {"training": {key: max(low, 0.5)}})
        for key, (low, _, words) in training._RANGES.items()
    ),
    *(
        (
            {"training": {"report_to": [name]}},
            "report_to: none",
            {"training": {"report_to": "none"}},
        )
        for name in TRACKERS
        if not is_available(name)
    ),
    (
        {"training": {"report_to": ["all", "none"]}},
        "all and none cannot be combined",
        {"training": {"report_to": "none"}},
    ),
    (
        {"lora": {"init_lora_weights": "pissa_niter_4"}},
        follows("the saved adapter does not fit the base model again; use pissa"),
        {"lora": {"init_lora_weights": "pissa"}},
    ),
    (
        {"training": {"optim": "lomo"}},
        follows("needs a library that is not installed ({…}); adamw_torch does not"),
        {"training": {"optim": "adamw_torch"}},
    ),
    (
        {"training": {"optim": "paged_adamw_32bit"}},
        follows("{…} needs a CUDA GPU and there is none here; use adamw_torch"),
        {"training": {"optim": "adamw_torch"}},
    ),
    (
        {"training": {"fp16": True}},
        follows("fp16 needs a CUDA GPU and there is none here; remove it for the best of this"),
        {"training": {}},
    ),
    (
        {"training": {"tf32": True}},
        follows("of the Ampere generation or newer and there is none here; remove it"),
        {"training": {}},
    ),
    (
        {"training": {"log_level": "inf"}},
        follows("'{…}' is not a level{…}: one of {…}"),
        {"training": {"log_level": "info"}},
    ),
    (
        {"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}},
        follows("'{…}' is not one of {…}{…}"),
        {"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
    ),
    *(
        (
            {"quantization": {"load_in_4bit": True, "load_in_8bit": True}},
            follows("load_in_4bit and load_in_8bit contradict each other; keep one"),
            {"quantization": {key: True}},
        )
        for key in ("load_in_4bit", "load_in_8bit")
    ),
    *(
        (
            {"quantization": {"llm_int8_skip_modules": ["lm_head"]}},
            follows("set load_in_8bit: true or load_in_4bit: true"),
            {"quantization": {"llm_int8_skip_modules": ["lm_head"], key: True}},
        )
        for key in ("load_in_4bit", "load_in_8bit")
    ),
    (
        {"model": {"dtype": "float16"}},
        follows("training in float16 needs a CUDA GPU and there is none here; use auto"),
        {"model": {"dtype": "auto"}},
    ),
    (
        {"model": {"attention": "flash_attention_2"}},
        follows("flash_attention_2 does not work here: {…}; use auto"),
        {"model": {"attention": "auto"}},
    ),
    *(
        (
            {"quantization": {"load_in_4bit": True}, "variants": {"tuned": {"method": "full"}}},
            follows("cannot be trained; use method: lora, or quantization: null"),
            instead,
        )
        for instead in (
            {"quantization": {"load_in_4bit": True}, "variants": {"tuned": {"method": "lora"}}},
            {"quantization": None, "variants": {"tuned": {"method": "full"}}},
        )
    ),
    (
        {
            "variants": {
                "again": {"kind": "prompted", "adapter": "tuned"},
                "tuned": {"objective": "instruction"},
            }
        },
        follows("'{…}' must come before it among the variants"),
        {
            "variants": {
                "tuned": {"objective": "instruction"},
                "again": {"kind": "prompted", "adapter": "tuned"},
            }
        },
    ),
    *(
        (
            {"training": {"max_steps": 1, "warmup_steps": 0.1}},
            follows("a learning rate of 0; set warmup_steps: 0, or train longer"),
            {"training": instead},
        )
        for instead in (
            {"max_steps": 1, "warmup_steps": 0},
            {"max_steps": 2, "warmup_steps": 0.1},
            {"max_steps": 1},
        )
    ),
    (
        {"lora": {"init_lora_weights": "pisa"}},
        follows("no such initialisation: {…}{…}; one of true, false, {…}"),
        {"lora": {"init_lora_weights": "pissa"}},
    ),
]


def with_model(folders: dict[str, Path], sections: dict[str, Any]) -> dict[str, Any]:
    """The sections, where the model's options come with its name."""
    if "model" not in sections:
        return sections
    return {**sections, "model": {"name": str(folders["llama"]), **sections["model"]}}


@pytest.mark.parametrize(("section", "options"), REMOVED, ids=[[*o][-1] for _, o in REMOVED])
def test_an_option_that_is_to_be_removed(
    model_folders: dict[str, Path], tmp_path: Path, section: str, options: dict[str, Any]
) -> None:
    def errors(**sections: Any) -> list[Any]:
        recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, sections))
        return [f for f in checker.findings(recipe, Path()) if f.severity == "error"]

    *_, refused = options
    messages = errors(**{section: options})
    assert messages and messages[0].key_path.endswith(refused)
    follows_table("preflight/lora.py", "REFUSED")
    follows_table("preflight/lora.py", "_NEEDS_DATA")
    follows_table("preflight/quantization.py", "REFUSED")
    follows_table("preflight/training_fields.py", "REFUSED")
    follows_table("preflight/training_fields.py", "_OWN_LAYERS")
    follows_table("preflight/training_fields.py", "_PUBLISH")
    follows_table("preflight/training_fields.py", "_COMPUTED")
    rest = {key: value for key, value in options.items() if key != refused}
    assert errors(**{section: rest}) == []


@no_gpu
@pytest.mark.parametrize(("options", "message", "instead"), CHANGED)
def test_an_option_that_is_to_be_changed(
    model_folders: dict[str, Path],
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
    instead: dict[str, Any],
) -> None:
    recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, options))
    [error] = [f for f in checker.findings(recipe, Path()) if f.severity == "error"]
    assert names(message, error.message), error.message
    recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, instead))
    assert [f for f in checker.findings(recipe, Path()) if f.severity == "error"] == []


@no_gpu
@pytest.mark.parametrize("section", ["model", "training"])
def test_emulated_bfloat16(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: False)
    slow: dict[str, Any] = {"model": {"dtype": "bfloat16"}, "training": {"bf16": True}}
    way: dict[str, Any] = {"model": {"dtype": "auto"}, "training": {}}
    words = {"model": "use auto", "training": "remove it"}

    def errors(sections: dict[str, Any]) -> list[str]:
        recipe = parsed(model_folders["llama"], tmp_path, **with_model(model_folders, sections))
        return [str(f) for f in checker.findings(recipe, Path()) if f.severity == "error"]

    [error] = errors({section: slow[section]})
    for message in (follows("{…}use auto"), follows("{…}remove it")):
        assert names(message, error) == message.endswith(words[section])
    assert errors({section: way[section]}) == []


def test_shares_of_a_learning_curve_that_are_too_small() -> None:
    def errors(shares: list[float], labels: int, rows: int) -> list[str]:
        examples = [Example(str(i), {"text": f"t {i}"}, f"l{i % labels}") for i in range(rows)]
        study = Study(examples, [], [], [f"l{i}" for i in range(labels)])
        recipe = parsed_curve({"shares": shares})
        return [str(f) for f in check_learning_curve(recipe, study)]

    # The least share of 151 labels in 10,000 rows is 0.0151, and 0.015 would be too small.
    for labels, rows in ((7, 90), (151, 10_000), (3, 64)):
        [error] = errors([0.01, 0.5, 1.0], labels, rows)
        assert names(follows("use shares of at least {…}, or more rows"), error)
        share = re.search(r"use shares of at least ([\d.]+)", error)
        assert share is not None
        assert errors([float(share[1]), 0.5, 1.0], labels, rows) == []
    [error] = errors([0.25, 0.5, 1.0], 3, 2)
    assert names(follows("a learning curve needs several times as many rows as labels"), error)
    assert errors([0.25, 0.5, 1.0], 3, 12) == []


def parsed_curve(settings: dict[str, Any]) -> recipes.Recipe:
    data = {"train": "a.csv", "text": "text", "label": "label"}
    return recipes.parse(
        {"name": "x", "data": data, "variants": ["tfidf"], "learning_curve": settings}
    )


def test_a_search_or_a_stop_without_validation_rows(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    examples = [Example(str(i), {"text": f"t {i}"}, "ab"[i % 2]) for i in range(40)]
    without = Study(examples, [], examples[:4], ["a", "b"])
    data = {"train": "a.csv", "text": "text", "label": "label"}
    sections: dict[str, Any] = {"early_stopping": 2, "search": {"space": {"lora.r": [4, 8]}}}

    def errors(study: Study, **changed: Any) -> list[str]:
        recipe = parsed(model_folders["llama"], tmp_path, data={**data, **changed}, **sections)
        found = checker.findings_with_data(recipe, study)
        return [str(f) for f in found if f.severity == "error"]

    found = errors(without)
    assert any(names(follows("needs validation rows: {…}"), e) for e in found), found
    remedy = follows("set data.validation or a data.splitting.validation share")
    assert any(names(remedy, e) for e in found)
    held_out = Study(examples[:36], examples[36:], examples[:4], ["a", "b"])
    assert errors(held_out, validation="b.csv") == []
    assert errors(held_out, splitting={"validation": 0.1}) == []


def test_early_stopping_is_given_validation_rows(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = parsed(model_folders["llama"], tmp_path, early_stopping=2)
    message = follows("early_stopping needs validation rows: {…}")
    remedy = follows("give data.validation or a splitting.validation share")

    def errors(rows: tuple[int, int]) -> list[str]:
        [(name, variant)] = [(n, v) for n, v in recipe.variants.items() if v.is_trained]
        found = training.check_training(recipe.for_variant(name), name, variant, rows)
        return [str(f) for f in found if f.severity == "error"]

    [error] = errors((36, 0))
    assert names(message, error) and names(remedy, error)
    assert errors((32, 4)) == []


def test_labels_of_weights_and_costs(model_folders: dict[str, Path], tmp_path: Path) -> None:
    examples = [Example(str(i), {"text": f"t {i}"}, "ab"[i % 2]) for i in range(40)]
    study = Study(examples[:36], examples[36:], examples[:4], ["a", "b"])

    def errors(label: str) -> list[str]:
        weights, costs = {label: 2.0}, {label: {"b": 2}}
        sections: dict[str, Any] = {"class_weights": weights, "costs": costs}
        recipe = parsed(model_folders["llama"], tmp_path, **sections)
        found = checker.findings_with_data(recipe, study)
        return [str(f) for f in found if f.severity == "error"]

    message = follows("no row has the label '{…}'{…}; the labels are {…}")
    found = errors("aa")
    assert len(found) == 2 and all(names(message, e) for e in found)
    assert errors("a") == []


def test_options_without_effect(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def notes(**sections: Any) -> list[str]:
        recipe = parsed(model_folders["llama"], tmp_path, **sections)
        return [str(f) for f in checker.findings(recipe, Path()) if f.severity == "note"]

    for message, before, after in (
        (
            follows("lr_scheduler_type: {…} does no warm-up; constant_with_warmup does"),
            {"training": {"lr_scheduler_type": "constant", "warmup_steps": 5}},
            {"training": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}},
        ),
        (
            follows("no effect: the run folder is runs/NAME, or what --out names"),
            {"training": {"output_dir": "elsewhere"}},
            {"training": {}},
        ),
        (
            follows("not used: no variant is one of {…}"),
            {"class_weights": "balanced", "variants": ["zero-shot"]},
            {"class_weights": "balanced", "variants": ["tuned", "tfidf"]},
        ),
    ):
        assert any(names(message, note) for note in notes(**before))
        assert notes(**after) == []


def test_options_of_trackers_and_optimizers(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def errors(**options: Any) -> list[str]:
        recipe = parsed(model_folders["llama"], tmp_path, training=options)
        return [str(f) for f in checker.findings(recipe, Path()) if f.severity == "error"]

    monkeypatch.setattr(trackers, "is_available", lambda _: True)
    monkeypatch.setattr(trackers, "_refusal", lambda name: f"no account for {name}")
    [error] = errors(report_to="wandb")
    assert names(follows("{…} cannot be loaded ({…}); use report_to: none"), error)
    assert errors(report_to="none") == []
    monkeypatch.setattr("transformers.utils.is_galore_torch_available", lambda: True)
    [error] = errors(optim="galore_adamw")
    assert names(follows("{…} needs training.optim_target_modules, e.g. all-linear"), error)
    assert errors(optim="galore_adamw", optim_target_modules="all-linear") == []
    [error] = errors(optim="adamw_anyprecision")
    assert names(follows("{…} does not work here ({…}); adamw_torch does"), error)
    assert errors(optim="adamw_torch") == []


def test_the_metric_of_a_model_that_is_spread(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    def errors(metric: str) -> list[str]:
        options = {"fsdp": True, "metric_for_best_model": metric}
        recipe = parsed(model_folders["llama"], tmp_path, training=options)
        found = checker.findings(recipe, Path())
        return [str(f) for f in found if f.key_path.endswith("metric_for_best_model")]

    [error] = errors("accuracy")
    assert names(follows("is not measured while FSDP spreads the model; use loss"), error)
    assert errors("loss") == []


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bf16": True}, "mps", follows("trains in float32 on Apple's GPUs; remove it")),
        (
            {"use_cpu": True},
            "cuda",
            follows("the GPU is used wherever there is one; hide it with {…} instead"),
        ),
    ],
)
def test_options_on_other_machines(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: str, message: str
) -> None:
    monkeypatch.setattr(arguments, "device", lambda: torch.device(kind))
    [(field, problem)] = arguments.device_problems(options).items()
    assert names(message, problem)
    if field == "use_cpu":
        assert re.search(r"hide it with (\w+)=", problem)
        monkeypatch.setattr(arguments, "device", lambda: torch.device("cpu"))
        assert arguments.device_problems(options) == {}
    assert arguments.device_problems({}) == {}


def test_weights_that_are_computed_in_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"train": "a.csv", "text": "text", "label": "label"}

    def errors(dtype: str, **training: Any) -> list[str]:
        values = {"name": "x", "data": data, "variants": ["tuned"], "training": training}
        recipe = recipes.parse({**values, "model": {"name": "a/b", "dtype": dtype}})
        return [f.message for f in precision._autocast(recipe) if f.severity == "error"]

    monkeypatch.setattr("prooftune.models.loading.device", lambda: torch.device("cuda"))
    [error] = errors("float16", bf16=True)
    assert names(follows("{…}; set model.dtype: {…}, or remove it"), error)
    assert errors("bfloat16", bf16=True) == [] == errors("float16")


def test_training_without_validation_rows_stops_early_only_with_them() -> None:
    with refused("early_stopping needs validation rows: set data.validation or a splitting.val"):
        train(None, [], [], None, None, patience=2)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="output_dir"):  # the next thing that is looked at
        train(None, [], [None], None, None, patience=2)  # type: ignore[arg-type, list-item]
