"""Options that cannot work are all found before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import prooftune
from prooftune import recipe as recipes
from prooftune.errors import Failure, UsageError
from prooftune.models import loading
from prooftune.preflight import checker, precision
from prooftune.preflight.findings import Finding
from prooftune.recipe import Recipe
from prooftune.run_folder import read_study
from study.small import small_recipe
from ways_out import follows, names

_ = transformers.TrainingArguments
"""Loaded before tests pretend that there is a GPU: bitsandbytes, which it imports, would use it."""

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def parsed(path: Path, folder: Path, **options: Any) -> Recipe:
    return recipes.parse({**small_recipe(path, folder), **options})


@pytest.fixture
def found(model_folders: dict[str, Path], tmp_path: Path) -> Any:
    def find(**options: Any) -> list[Finding]:
        return checker.findings(parsed(model_folders["llama"], tmp_path, **options), Path())

    return find


def test_human_scores_may_name_the_variants_that_generate(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    scores = tmp_path / "human.csv"
    scores.write_text("id,criterion,score,variant\n1,correctness,3,zero-shot\n")
    judge = {"model": str(model_folders["llama"]), "human": str(scores)}
    variants = {"majority": None, "zero-shot": None}
    options = {"judge": judge, "variants": variants, "training": {}, "lora": {}}
    recipe = parsed(model_folders["llama"], tmp_path, **options)
    assert checker.findings(recipe, Path()) == []
    scores.write_text("id,criterion,score,variant\n1,correctness,3,majority\n")
    [finding] = checker.findings(recipe, Path())
    assert "unknown variant 'majority'" in str(finding)


def test_a_plain_recipe_has_no_findings(found: Any) -> None:
    assert found() == []


@no_gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": {"optim": "paged_adamw_32bit"}}, "training.optim: paged_adamw_32bit needs "
         "a CUDA GPU"),
        ({"training": {"fp16": True}}, "training.fp16: fp16 needs a CUDA GPU"),
        ({"training": {"tf32": True}}, "training.tf32: TF32 needs an NVIDIA GPU"),
        ({"model": {"name": "MODEL", "dtype": "float16"}}, "model.dtype: training in float16 "
         "needs a CUDA GPU"),
        ({"model": {"name": "MODEL", "attention": "flash_attention_2"}},
         "model.attention: flash_attention_2 does not work here: it needs a CUDA GPU; use auto"),
    ],
)  # fmt: skip
def test_what_needs_a_gpu_is_refused_without_one(
    found: Any, model_folders: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    if options.get("model", {}).get("name") == "MODEL":
        options = {"model": {**options["model"], "name": str(model_folders["llama"])}}
    (finding,) = found(**options)
    assert finding.severity == "error" and str(finding).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": {"adam_beta1": 2}}, "training.adam_beta1: 2 is out of range: 0 or more, and "
         "below 1"),
        ({"training": {"weight_decay": -0.1}}, "training.weight_decay: -0.1 is out of range: 0 or "
         "more"),
        ({"training": {"report_to": "tensorbord"}}, "training.report_to: no tracker 'tensorbord' "
         "(did you mean 'tensorboard'?)"),
        ({"training": {"report_to": ["clearml"]}}, "training.report_to: clearml is not "
         "installed, or not set up: pip install clearml, or report_to: none"),
        ({"training": {"report_to": ["all", "tensorboard"]}}, "training.report_to: all and none "
         "cannot be combined with others"),
        ({"training": {"metric_for_best_model": "acuracy"}}, "training.metric_for_best_model: "
         "'acuracy' is not measured during training (did you mean 'accuracy'?): one of loss, "
         "accuracy, macro_f1"),
        ({"training": {"eval_strategy": "no"}, "early_stopping": 2}, "early_stopping: "
         "training.eval_strategy is no, so nothing is evaluated; remove one of them"),
        ({"training": {"train_sampling_strategy": "batch_rebalance"}},
         "training.train_sampling_strategy: 'batch_rebalance' is not supported"),
        ({"training": {"log_level": "INFO"}}, "training.log_level: 'INFO' is not a level (did you "
         "mean 'info'?): one of detail, debug, info"),
        ({"training": {"fsdp": "full_shard"}}, "training.fsdp: FSDP needs several processes"),
        ({"training": {"lr_scheduler_type": "cosine_with_min_lr"}},
         "training.lr_scheduler_kwargs: cosine_with_min_lr does not work with None"),
        ({"training": {"optim": "schedule_free_adamw"}}, "training.optim: schedule_free_adamw "
         "does not work here (You need to install `schedulefree`"),
        ({"training": {"optim": "galore_adamw"}}, "training.optim: galore_adamw needs a library "
         "that is not installed"),
        ({"training": {"load_best_model_at_end": True, "eval_strategy": "epoch"}},
         "training: load_best_model_at_end requires the save and eval strategy to match"),
        ({"lora": {"init_lora_weights": "pisa"}}, "lora.init_lora_weights: no such "
         "initialisation: 'pisa' (did you mean 'pissa'?)"),
        ({"lora": {"init_lora_weights": "eva"}}, "lora.init_lora_weights: eva is not supported"),
        ({"lora": {"init_lora_weights": "pissa_niter_4"}}, "lora.init_lora_weights: "
         "pissa_niter_4 is not supported: it draws at random"),
        ({"lora": {"inference_mode": True}}, "lora.inference_mode: True is true would"),
        ({"lora": {"layers_to_transform": [0]}}, "lora: `layers_to_transform` cannot be used"),
        ({"quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}},
         "quantization.bnb_4bit_quant_type: 'nf5' is not one of nf4, fp4"),
        ({"quantization": {"load_in_4bit": True, "bnb_4bit_compute_dtype": "nothing"}},
         "quantization: "),
        ({"quantization": {"load_in_8bit": True},
          "variants": {"tuned": {"method": "full"}}, "lora": {}},
         "variants.tuned.method: quantised weights cannot be trained"),
        ({"forgetting": "no_such.txt"}, "forgetting: "),
        ({"judge": {"model": "m", "base_url": "http://localhost:1/v1", "api_key_env": "NO_KEY"}},
         "judge.api_key_env: the environment variable NO_KEY is not set"),
        ({"judge": {"model": "no_such_model"}}, "judge.model: no model 'no_such_model'"),
    ],
)  # fmt: skip
def test_what_a_library_refuses_late_is_found_early(
    found: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    errors = [finding for finding in found(**options) if finding.severity == "error"]
    assert len(errors) == 1 and str(errors[0]).startswith(message), errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": {"lr_scheduler_type": "constant", "warmup_steps": 0.03}},
         "training.warmup_steps: lr_scheduler_type: constant does no warm-up; "
         "constant_with_warmup does"),
        ({"training": {"optim": "adamw_torch", "optim_args": "momentum=0.9"}},
         "training.optim_args: no effect with optim: adamw_torch"),
        ({"training": {"optim": "sgd", "adam_beta1": 0.5}},
         "training.adam_beta1: no effect with optim: sgd"),
        ({"training": {"lr_scheduler_type": "greedy", "warmup_steps": 5}},
         "training.warmup_steps: lr_scheduler_type: greedy does no warm-up"),
        ({"training": {"save_only_model": True}}, "training.save_only_model: "),
        ({"training": {"output_dir": "out"}}, "training.output_dir: no effect: the run folder is "
         "runs/NAME, or what --out names"),
        ({"lora": {"task_type": "SEQ_2_SEQ_LM"}}, "lora.task_type: no effect: "),
        ({"variants": {"tfidf": None}}, "training: not used: no variant of kind tuned is trained"),
        ({"variants": {"tuned": {"method": "full"}}}, "lora: not used: every tuned variant has "
         "method: full"),
        ({"quantization": {"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"}},
         "quantization.bnb_4bit_quant_type: no effect with load_in_8bit: true"),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_noted(found: Any, options: dict[str, Any], message: str) -> None:
    shown = found(**options)
    assert all(finding.severity == "note" for finding in shown), shown
    assert any(str(finding).startswith(message) for finding in shown), shown


def test_an_endpoint_without_a_price_beside_a_machine_with_one_is_noted(tmp_path: Path) -> None:
    def noted(machine: float | None, **endpoint: Any) -> list[str]:
        settings = {"model": "m", "base_url": "http://localhost:1/v1", **endpoint}
        values = small_recipe(tmp_path, tmp_path)
        for section in ("lora", "training", "prompt"):
            del values[section]
        values["variants"] = {"api": {"kind": "endpoint", "endpoint": settings}}
        values["cost"] = {"machine_per_hour": machine}
        return [str(f) for f in checker.findings(recipes.parse(values), Path())]

    [note] = noted(0.5)
    assert note.startswith("variants.api.endpoint.price: not set, so that its cost is not compared")
    assert names(follows("(cost.machine_per_hour); set the price of a million tokens"), note)
    assert noted(0.5, price={"input": 1, "output": 2}) == noted(None) == []


def test_what_an_optimiser_reads_needs_no_note(found: Any) -> None:
    assert found(training={"optim": "sgd", "optim_args": "momentum=0.9"}) == []
    assert found(training={"optim": "adamw_torch", "adam_beta1": 0.5}) == []


def test_the_usual_task_type_needs_no_note(found: Any) -> None:
    assert found(lora={"task_type": "CAUSAL_LM", "peft_type": "LORA"}) == []
    head = {"tuned": {"objective": "head"}}
    assert found(lora={"task_type": "SEQ_CLS"}, variants=head) == []


@no_gpu
def test_emulated_bfloat16_is_refused(
    found: Any, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: False)
    model = {"name": str(model_folders["llama"]), "dtype": "bfloat16"}
    shown = found(model=model, training={"bf16": True})
    assert [finding.key_path for finding in shown] == ["model.dtype", "training.bf16"]
    assert found() == [] and found(training={"bf16": False}) == []


@no_gpu
@pytest.mark.parametrize(
    ("model", "training", "expected"),
    [
        ({}, {"fp16": True}, []),  # auto: loaded in float16
        ({}, {"bf16": True}, []),
        ({"dtype": "float16"}, {"fp16": True}, []),
        ({"dtype": "bfloat16"}, {"fp16": True}, ["error"]),
        ({"dtype": "float32"}, {"fp16": True}, ["error"]),
        ({"dtype": "float16"}, {"bf16": True}, ["error"]),
        ({"dtype": "float32"}, {"bf16": True}, ["note"]),
    ],
)
def test_training_and_scoring_compute_in_the_same_dtype_on_a_gpu(
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, str],
    training: dict[str, bool],
    expected: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    name = {"name": str(model_folders["llama"])}
    for options in (
        {"training": training},
        {"variants": {"tuned": {"kind": "tuned", "training": training}}},
    ):
        recipe = parsed(model_folders["llama"], tmp_path, **{"model": {**name, **model}, **options})
        found = list(precision.check_precision(recipe))
        if not model and "variants" in options and "fp16" in training:
            expected = ["error"]  # one variant's option does not change the model of all
        assert [finding.severity for finding in found] == expected
        assert all(finding.key_path.endswith(f"training.{key}") for finding in found
                   for key in training)  # fmt: skip


def test_fp16_loads_the_model_in_float16(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def dtype(**options: Any) -> str:
        recipe = parsed(model_folders["llama"], tmp_path, **options)
        return loading.with_training_dtype(recipe).model.dtype

    model = {"name": str(model_folders["llama"])}
    assert dtype(model=model) == "auto"
    assert dtype(model=model, training={"fp16": True}) == "float16"
    assert dtype(model=model, training={"fp16": False, "bf16": True}) == "bfloat16"
    assert dtype(model={**model, "dtype": "float32"}, training={"fp16": True}) == "float32"


def test_an_adapter_that_comes_later_is_found(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(model_folders["llama"], tmp_path)
    values |= {
        "task": "free-text-qa",
        "prompt": {},
        "variants": {
            "other": {"kind": "tuned", "adapter": "tuned", "context": "none"},
            "tuned": {"kind": "tuned"},
        },
    }
    (finding,) = checker.findings(recipes.parse(values), Path())
    assert str(finding) == (
        "variants.other.adapter: 'tuned' must come before it among the variants"
    )


@no_gpu
def test_all_problems_are_raised_together_before_anything_is_written(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    values = small_recipe(
        model_folders["llama"],
        tmp_path / "data",
        training={"optim": "paged_adamw_8bit", "fp16": True, "torch_compile": True},
        variants={"zero-shot": None, "tuned": {"training": {"report_to": "clearml"}}},
    )
    with pytest.raises(UsageError) as caught:
        prooftune.run(values, tmp_path / "run")
    first, *lines = str(caught.value).splitlines()
    assert first == "small: 4 options cannot work here or together"
    assert sorted(line.split(":")[0] for line in lines) == [
        "  - training.fp16",
        "  - training.optim",
        "  - training.torch_compile",
        "  - variants.tuned.training.report_to",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": {"target_modules": ["q_proj", "v_prj"]}}, "lora.target_modules: the model has "
         "no layer 'v_prj' (did you mean 'v_proj'?): its matrices are down_proj, gate_proj, "
         "k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"),
        ({"lora": {"modules_to_save": ["lm_haed"]}}, "lora.modules_to_save: the model has no "
         "layer 'lm_haed'"),
        ({"lora": {"layers_to_transform": [7], "target_modules": ["q_proj"]}}, "lora: Target "
         "modules {'q_proj'} not found"),
        ({"lora": {"r": 0}}, "lora: `r` should be a positive integer"),
        ({"training": {"eval_strategy": "epoch"}}, "training.eval_strategy: there are no "
         "validation rows"),
        ({"early_stopping": 2}, "early_stopping: early_stopping needs validation rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_model_or_rows_is_found_before_training(
    model_folders: dict[str, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    values = small_recipe(
        model_folders["llama"], tmp_path / "data", variants={"majority": None}, training={}, lora={}
    )
    study = read_study(prooftune.run(values, tmp_path / "run").folder / "data")
    if "lora" not in options:
        study = type(study)(study.train, [], study.test, study.labels, study.notes)
    recipe = parsed(model_folders["llama"], tmp_path / "again", **options)
    errors = [str(finding) for finding in checker.findings_with_data(recipe, study)]
    assert len(errors) == 1 and errors[0].startswith(message)


def test_the_check_draws_nothing_from_the_seed(
    found: Any, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found(training={"optim": "adamw_torch"})
    assert torch.equal(torch.get_rng_state(), before)


def test_init_tells_what_is_missing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prooftune.evaluation.answers import scores

    questions = tmp_path / "questions.csv"
    rows = [f"What is {i}?,The number {i} of many" for i in range(30)]
    questions.write_text("\n".join(["question,answer", *rows]))
    monkeypatch.chdir(tmp_path)
    assert prooftune.init(questions, tmp_path / "a.yaml").problems == []
    monkeypatch.setattr(scores, "_LIBRARIES", {"no_such_module": "no-such-package"})
    assert prooftune.init(questions, tmp_path / "b.yaml").problems == [
        "task: measuring answers needs no-such-package: pip install 'prooftune[answers]'"
    ]


def test_missing_data_is_listed_with_the_rest(found: Any) -> None:
    shown = found(data={"train": "no_such.csv"}, training={"torch_compile": True})
    assert [finding.key_path for finding in shown] == ["data.train", "training.torch_compile"]


def test_all_trackers_are_those_of_transformers(found: Any, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    theirs = TrainingArguments(str(tmp_path), report_to="all", use_cpu=True).report_to
    (finding,) = [f for f in found(training={"report_to": "all"}) if f.severity == "note"]
    assert finding.key_path == "training.report_to"
    listed = finding.message.removeprefix("all means here: ").split(", ")
    assert listed == theirs or (theirs == [] and listed[0] == "none")


@no_gpu
def test_a_gated_model_is_listed_with_the_rest(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(name: str, revision: str | None) -> None:
        asked.append(name)
        raise Failure(f"the model {name} is gated")

    monkeypatch.setattr("prooftune.models.loading.check_hub_access", refuse)
    values = small_recipe(
        model_folders["llama"],
        tmp_path / "data",
        training={"fp16": True},
        variants={"tuned": {"model": "meta-llama/Llama-3.2-1B"}},
    )
    messages = [str(finding) for finding in checker.findings(recipes.parse(values), Path())]
    assert messages[-1] == "variants.tuned.model: the model meta-llama/Llama-3.2-1B is gated"
    assert any(message.startswith("training.fp16: ") for message in messages)
    # Without another error the download itself says it at once: the hub is not asked twice.
    del values["training"]
    asked.clear()
    assert not [f for f in checker.findings(recipes.parse(values), Path()) if f.severity == "error"]
    assert not asked


def test_the_old_name_of_checkpointing_gives_no_warning(
    found: Any, recwarn: pytest.WarningsRecorder
) -> None:
    assert not found(training={"gradient_checkpointing": True})
    assert not [w for w in recwarn if "gradient_checkpointing" in str(w.message)]
