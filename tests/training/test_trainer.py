"""The trainer on tiny models: exact loss, accumulation, sharing, resuming after a kill, stopping on
NaN."""

from __future__ import annotations

import gc
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from prooftune import recipe
from prooftune.engine import threads
from prooftune.engine.kernels import int8_linear
from prooftune.errors import Failure, UsageError
from prooftune.models import adapters, loading
from prooftune.training import trainer
from prooftune.training.arguments import training_arguments
from prooftune.training.checkpoints import elapsed_seconds, last_complete_checkpoint
from prooftune.training.objective import TuningModule
from prooftune.training.progress import finite_log
from prooftune.training.trainer import train
from prooftune.training.tuning_trainer import TuningTrainer
from prooftune.utils.files import read_json, write_json
from prooftune.variants.training_record import training_summary
from training.tiny import BFLOAT16, FLOAT32, LABELS, arguments, loss_of, setup
from ways_out import refused


def test_loss_equals_transformers_own_row_by_row(model_folder: Path) -> None:
    module, rows, encoder = setup(model_folder)
    total = count = 0.0
    for row in rows:
        ids = [*encoder.prefix, *row.ids, row.targets[-1]]
        labels = [-100] * (len(ids) - len(row.targets)) + row.targets
        with torch.no_grad():
            own = module.model(
                input_ids=torch.tensor([ids]), labels=torch.tensor([labels])
            ).loss.item()
        total, count = total + own * len(row.targets), count + len(row.targets)
    assert loss_of(module, rows, encoder).item() == pytest.approx(total / count, abs=1e-4)


@pytest.mark.failure(7)
def test_head_loss_equals_transformers_own(model_folder: Path) -> None:
    module, rows, encoder = setup(model_folder, "head")
    losses = [
        module.model(
            input_ids=torch.tensor([[*encoder.prefix, *r.ids]]), labels=torch.tensor(r.targets)
        ).loss.item()
        for r in rows
    ]
    assert loss_of(module, rows, encoder).item() == pytest.approx(
        sum(losses) / len(losses), abs=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["instruction", "head"])
def test_rows_in_one_line_give_the_same_loss_and_gradients(
    model_folder: Path, objective: str
) -> None:
    matches = []
    for packed in (True, False):
        module, rows, encoder = setup(model_folder, objective, packed=packed)
        for (
            parameter
        ) in module.parameters():  # B starts at zero, where A has no gradient to compare
            if parameter.requires_grad and not parameter.abs().max() > 0:
                torch.nn.init.normal_(
                    parameter, std=0.02, generator=torch.Generator().manual_seed(1)
                )
        loss = loss_of(module, rows[:7], encoder)
        loss.backward()  # type: ignore[no-untyped-call]
        matches.append(
            (
                loss.item(),
                torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]),
            )
        )
    assert matches[0][0] == pytest.approx(matches[1][0], abs=1e-5)
    torch.testing.assert_close(matches[0][1], matches[1][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("method", "expected"), [("lora", [2, 3, 3]), ("full", [2, 2, 2])])
def test_threads_follow_the_load_where_the_result_does_not_depend_on_them(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    expected: list[int],
) -> None:
    """With full fine-tuning the gradients of norms are sums by threads."""

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **options: Any) -> None:
            counts.append(torch.get_num_threads())

    counts: list[int] = []
    times = iter(range(100))
    for name in threads.THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "scheduling_times", lambda: (0, next(times)))  # always waits
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    module, rows, encoder = setup(model_folder, method=method)
    train(module, rows, [], encoder.prefix, arguments(tmp_path, max_steps=3), callbacks=[Count()])
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert counts == expected
    assert after == 2


@pytest.mark.failure(5)
def test_padding_token_as_target_is_learned(model_folders: dict[str, Path]) -> None:
    """pad = eos must not hide the stop token: its loss has a gradient."""
    module, rows, encoder = setup(model_folders["llama"])
    assert loading.load_tokenizer(model_folders["llama"]).pad_token_id == encoder.stop_token_id
    only_stop = [type(r)(r.ids, r.label_positions[-1:], r.targets[-1:]) for r in rows]
    assert loss_of(module, only_stop, encoder).item() > 0.1


@pytest.mark.slow
@pytest.mark.failure(19)
@pytest.mark.parametrize("objective", ["instruction", "head"])
def test_accumulation_equals_one_big_batch(
    model_folders: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    """Rows have different numbers of target tokens, so averaging per micro-batch would show."""
    states = []
    for name, options in {
        "big": {"per_device_train_batch_size": 8},
        "small": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    }.items():
        module, rows, encoder = setup(model_folders["llama"], objective)
        train(
            module,
            rows,
            [],
            encoder.prefix,
            arguments(
                tmp_path / name,
                max_steps=3,
                train_sampling_strategy="sequential",
                optim="sgd",
                save_strategy="no",
                **options,
            ),
        )
        states.append(module.trainable_state())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_garbage_is_looked_for_again_after_training(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """While the Trainer trains, only what is new is looked through; afterwards, also of a run that
    failed, everything is."""
    module, rows, encoder = setup(model_folders["llama"])
    frozen: list[int] = []

    class Stopped(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            frozen.append(gc.get_freeze_count())
            raise Failure("stopped")

    with pytest.raises(Failure, match="stopped"):
        train(
            module,
            rows,
            [],
            encoder.prefix,
            arguments(tmp_path, max_steps=1, save_strategy="no"),
            callbacks=[Stopped()],
        )
    assert frozen[0] > 10_000 and gc.get_freeze_count() == 0


@pytest.mark.slow
@pytest.mark.failure(2)
@pytest.mark.parametrize("method", ["lora", "dora", "rslora", "full"])
def test_saved_and_loaded_again_it_is_the_same_model(
    model_folder: Path, tmp_path: Path, method: str
) -> None:
    for objective in ("instruction", "head"):
        module, rows, encoder = setup(model_folder, objective, method)
        before = loss_of(module, rows, encoder).item()
        train(
            module, rows, [], encoder.prefix, arguments(tmp_path / f"{objective}-run", max_steps=4)
        )
        module.model.eval()
        after = loss_of(module, rows, encoder).item()
        assert after < before - 1e-3
        adapters.save_tuned(module.model, tmp_path / objective, method, torch.float32)
        again = adapters.load_tuned(
            model_folder,
            tmp_path / objective,
            FLOAT32,
            quantization=None,
            labels=list(LABELS) if objective == "head" else None,
        )
        assert loss_of(TuningModule(again), rows, encoder).item() == pytest.approx(after, abs=1e-6)


@pytest.mark.slow
def test_int8_training_matches_training_in_the_models_dtype(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says so where that is not possible: then it is the same to the last bit."""
    messages: list[str] = []
    monkeypatch.setattr(trainer, "notify", lambda text, *_: messages.append(text))
    losses = {}
    for name in ("plain", "int8", "without code"):
        if name == "without code":
            monkeypatch.setattr(trainer, "is_available", lambda: False)
        module, rows, encoder = setup(model_folders["llama"], options=BFLOAT16)
        log = train(
            module,
            rows,
            [],
            encoder.prefix,
            arguments(
                tmp_path / name, num_train_epochs=3, save_strategy="no", logging_steps=1, bf16=True
            ),
            int8=name != "plain",
        )
        losses[name] = [item["loss"] for item in log if "loss" in item]
    assert (
        losses["without code"] == losses["plain"]
        and "model.int8_training is not possible" in messages[-1]
    )
    assert (
        losses["int8"][-1] == pytest.approx(losses["plain"][-1], rel=0.05)
        and losses["int8"][-1] < 0.9 * losses["int8"][0]
    )
    assert (
        losses["int8"] != losses["plain"] and len(messages) == 1
    ) or not int8_linear.is_available()


def test_gradient_checkpointing_changes_nothing(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    states = []
    for checkpointing in (False, True):
        module, rows, encoder = setup(model_folders["llama"])
        options = arguments(
            tmp_path / str(checkpointing), max_steps=2, gradient_checkpointing=checkpointing
        )
        train(module, rows, [], encoder.prefix, options)
        states.append(module.trainable_state())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=1e-4, rtol=1e-3, msg=name)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
sys.path.insert(0, {tests!r})
from training.tiny import BFLOAT16, arguments, setup
from prooftune.training.trainer import train
from prooftune.training.tuning_trainer import TuningTrainer
from safetensors.torch import save_file

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        with open(sys.argv[2] + ".steps", "a") as file:
            file.write(str(state.global_step) + " ")
        if state.global_step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[4] == "int8":
    module, rows, encoder = setup(Path(sys.argv[1]), options=BFLOAT16)
else:
    module, rows, encoder = setup(Path(sys.argv[1]))
# With dropout and two epochs, a resumed run needs the random state and the second epoch's order.
module.model.base_model.model.model.layers[0].self_attn.q_proj.lora_dropout["default"].p = 0.3
train(module, rows, [], encoder.prefix, arguments(
    Path(sys.argv[2]), num_train_epochs=2, save_strategy="steps", save_steps=2,
      bf16=sys.argv[4] == "int8"), int8=sys.argv[4] == "int8", callbacks=[Killer()])
save_file(module.trainable_state(), Path(sys.argv[2]) / "final.safetensors")
"""


@pytest.mark.slow
@pytest.mark.failure(18)
@pytest.mark.parametrize(("kill_at", "products"), [(5, "float32"), (9, "float32"), (5, "int8")])
def test_killed_and_resumed_equals_uninterrupted(
    model_folders: dict[str, Path], tmp_path: Path, kill_at: int, products: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))

    def go(name: str, kill: int) -> int:
        command = [
            sys.executable,
            str(script),
            str(model_folders["llama"]),
            str(tmp_path / name),
            str(kill),
            products,
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert go("straight", -1) == 0
    assert go("killed", kill_at) == -9
    last = last_complete_checkpoint(tmp_path / "killed")
    assert last is not None and elapsed_seconds(last) > 0
    (last / "seconds.json").write_text("1000.5")
    # What a kill in the middle of writing leaves: newer than the others and useless.
    torn = tmp_path / "killed" / "checkpoint-99"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"epoch": 1.')
    assert go("killed", -1) == 0
    # After the kill it goes on behind the last checkpoint (every second step), and starts nothing
    # over.
    steps = [int(n) for n in (tmp_path / "killed.steps").read_text().split()]
    assert steps == [*range(1, kill_at + 1), *range(kill_at, 13)]
    straight, resumed = (
        load_file(tmp_path / name / "final.safetensors") for name in ("straight", "killed")
    )
    for name, value in straight.items():
        assert torch.equal(resumed[name], value), name
    assert (
        1000.5 < elapsed_seconds(last_complete_checkpoint(tmp_path / "killed")) < 2000
        and elapsed_seconds(None) == 0.0
    )


@pytest.mark.failure(18)
def test_a_torn_checkpoint_is_never_resumed(tmp_path: Path) -> None:
    for step, content in {4: "{}", 8: '{"global_'}.items():
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(content)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-8").exists()


@pytest.mark.failure(21)
def test_the_first_non_finite_loss_stops_with_its_reason(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    module, rows, encoder = setup(model_folders["llama"])
    constant: dict[str, Any] = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    with refused(
        "fp16 {…}, bf16 {…}. Lower training.learning_rate, or use bf16 instead of fp16.", Failure
    ) as error:
        high = arguments(tmp_path, learning_rate=float("inf"), **constant)
        train(module, rows, [], encoder.prefix, high)
    assert re.search(r"loss became nan at step \d", str(error.value))
    module, rows, encoder = setup(model_folders["llama"])
    low = arguments(tmp_path / "low", learning_rate=1e-3, max_steps=2, **constant)
    assert train(module, rows, [], encoder.prefix, low)


@pytest.mark.slow
def test_early_stopping_and_best_checkpoint(model_folders: dict[str, Path], tmp_path: Path) -> None:
    module, rows, encoder = setup(model_folders["llama"])
    options = training_arguments(
        {
            "learning_rate": 0.3,
            "num_train_epochs": 30,
            "per_device_train_batch_size": 4,
            "eval_steps": 2,
            "lr_scheduler_type": "constant",
        },
        tmp_path,
        rows=16,
        validation=8,
        seed=0,
        dtype=torch.float32,
        patience=2,
    )
    log = train(module, rows[:16], rows[16:], encoder.prefix, options, patience=2)
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert log[-1]["step"] < 120
    module.model.eval()
    assert loss_of(module, rows[16:], encoder).item() == pytest.approx(min(losses), rel=1e-4)
    # A run that was stopped between its training and its predictions must not train on.
    weights = module.trainable_state()
    again, rows, encoder = setup(model_folders["llama"])
    repeated = train(again, rows[:16], rows[16:], encoder.prefix, options, patience=2)
    assert [e["step"] for e in repeated if "loss" in e] == [e["step"] for e in log if "loss" in e]
    assert all(torch.equal(again.trainable_state()[name], w) for name, w in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-2, 10.0])
def test_the_step_of_a_warm_up_without_a_learning_rate_is_not_the_best(
    model_folders: dict[str, Path], tmp_path: Path, rate: float
) -> None:
    """At the high rate the untrained weights have the lower loss."""
    module, rows, encoder = setup(model_folders["llama"])
    before = {name: w.clone() for name, w in module.trainable_state().items()}
    options = training_arguments(
        {"learning_rate": rate, "max_steps": 2, "per_device_train_batch_size": 4},
        tmp_path,
        rows=16,
        validation=8,
        seed=0,
        dtype=torch.float32,
        patience=None,
    )
    log = train(module, rows[:16], rows[16:], encoder.prefix, options)
    assert [entry["learning_rate"] for entry in log if "learning_rate" in entry] == [0.0, rate]
    after = module.trainable_state()
    assert any(not torch.equal(after[name], w) for name, w in before.items())


@pytest.mark.parametrize("options", [{"max_steps": 2}, {"num_train_epochs": 1}])
def test_a_finished_training_takes_no_step_when_it_is_resumed(
    model_folders: dict[str, Path], tmp_path: Path, options: dict[str, int]
) -> None:
    logs, weights = [], []
    for _ in range(2):
        module, rows, encoder = setup(model_folders["llama"])
        values = arguments(tmp_path, save_strategy="steps", save_steps=1, **options)
        logs.append(train(module, rows, [], encoder.prefix, values))
        weights.append(module.trainable_state())
    assert max(e["step"] for e in logs[1]) == max(e["step"] for e in logs[0])
    assert all(torch.equal(weights[1][name], w) for name, w in weights[0].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "paged_adamw_8bit"}, "needs a CUDA GPU"),
        ({"fp16": True}, "needs a CUDA GPU"),
        ({"learning_rate": 1e-3, "optim": "no_such"}, "training:"),
    ],
)
def test_options_that_this_machine_cannot_do(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available() and "CUDA" in message:
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match=message):
        arguments(tmp_path, **options)


def test_contradicting_lora_options(model_folders: dict[str, Path]) -> None:
    model = loading.load_model(model_folders["llama"], FLOAT32)
    with pytest.raises(UsageError, match="lora:"):
        adapters.make_trainable(
            model, recipe.Variant(kind="tuned"), {"target_modules": ["no_such_layer"]}
        )


def test_steps_that_the_loss_scaler_skipped_can_be_written_as_json() -> None:
    """float16: such a step logs a gradient norm of inf or nan."""
    history = [
        {"step": 1, "loss": 0.7, "grad_norm": float("inf")},
        {"step": 2, "loss": 0.6, "grad_norm": float("nan")},
        {"step": 3, "loss": 0.5, "grad_norm": 1.5},
    ]
    written = json.loads(json.dumps(finite_log(history), allow_nan=False))
    assert [entry["grad_norm"] for entry in written] == [None, None, 1.5]
    assert [entry["loss"] for entry in written] == [0.7, 0.6, 0.5]


class OverflowedSteps(TrainerCallback):  # type: ignore[misc]
    """Logs the gradient norms of steps that the loss scaler skips."""

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.log_history[-1]["grad_norm"] = math.inf if state.global_step == 1 else math.nan


def test_the_record_of_a_training_with_skipped_steps_is_written(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    module, rows, encoder = setup(model_folders["llama"])
    options = arguments(tmp_path, max_steps=2, logging_steps=1, save_strategy="no")
    log = train(module, rows, [], encoder.prefix, options, callbacks=[OverflowedSteps()])
    record = training_summary(log, options, (1, 2), len(rows), resumed=False)
    write_json(tmp_path / "training.json", record)
    written = read_json(tmp_path / "training.json")["log_history"]
    assert [entry["grad_norm"] for entry in written] == [None] * len(log)
    assert [entry["step"] for entry in written if "loss" in entry] == [1, 2]


def test_modules_with_a_fixed_structure_are_still_set_to_training_one_by_one(
    model_folders: dict[str, Path],
) -> None:
    module, _, _ = setup(model_folders["llama"])
    expected = list(module.parameters())
    with module.fixed_structure():
        assert all(a is b for a, b in zip(module.parameters(), expected, strict=True))
        assert next(module.parameters(recurse=False), None) is None
        module.train()
        assert all(part.training for part in module.modules())
        # Scoring during training sets the model inside to evaluation, or a part of it.
        next(part for part in module.model.modules() if not list(part.children())).eval()
        assert module.training
        module.train()
        assert all(part.training for part in module.modules())
        module.eval()
        assert not any(part.training for part in module.modules())
    module.extra = torch.nn.Linear(1, 1, bias=False)
    assert len(list(module.parameters())) == len(expected) + 1


def test_a_checkpoint_is_complete_once_all_processes_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Trainer's state comes after it: a process that is killed before leaves none."""
    process: Any = object.__new__(TuningTrainer)
    process.args = SimpleNamespace(world_size=2, process_index=1, parallel_mode=None)
    written: list[list[str]] = []
    monkeypatch.setattr(
        torch.distributed, "barrier", lambda: written.append([p.name for p in tmp_path.iterdir()])
    )
    process._save_rng_state(str(tmp_path))
    assert written == [["rng_state_1.pth"]]
