"""Two processes under torchrun: what one process would learn and predict, and one killed in the
middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import prooftune
from prooftune.engine.kernels import int8_linear
from prooftune.run_folder import read_predictions
from prooftune.utils import distributed
from prooftune.utils.files import read_json
from study.small import details_of, small_recipe, steps_kept

PATIENCE = 180
"""Seconds after which a moment that has not come is a failure."""


# The addresses are said, since a machine's own name need not lead anywhere.
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr",
    "127.0.0.1",
    "--nproc-per-node",
    "2",
]
ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--main_process_port",
    "0",
]
RUN = ["--module", "prooftune", "run"]


def launched(recipe: Path, out: Path) -> list[str]:
    return [*TORCHRUN, *RUN, str(recipe), "--out", str(out)]


def environment() -> dict[str, str]:
    shown = {k: v for k, v in os.environ.items() if k != "PROOFTUNE_QUIET"}
    return shown | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def study(model: Path, folder: Path, **training: Any) -> dict[str, Any]:
    """70 rows of training in batches of 8: the last one is short, and with two processes of 4 rows
    not even."""
    values = small_recipe(
        model,
        folder / "data",
        variants=dict.fromkeys(["tfidf", "zero-shot", "tuned"]),
        training={
            "learning_rate": 3e-3,
            "num_train_epochs": 2,
            "logging_steps": 1,
            "eval_steps": 5,
            "save_steps": 5,
            **training,
        },
    )
    values["data"]["limit"] = {"train": 69}
    return values


def written(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def losses(folder: Path) -> dict[str, list[float]]:
    log = read_json(folder / "variants" / "tuned" / "training.json")["training"]["log_history"]
    return {
        kind: [entry[kind] for entry in log if kind in entry]
        for kind in ("loss", "eval_loss", "grad_norm")
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    matches: dict[str, torch.Tensor] = load_file(
        folder / "variants" / "tuned" / "trained" / "adapter_model.safetensors"
    )
    return matches


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_shares_put_together_are_the_whole(items: list[int], count: int) -> None:
    assert distributed.merge_shards([items[rank::count] for rank in range(count)]) == items


def test_alone_a_process_leads_and_does_shared_work_itself() -> None:
    with distributed.process_group() as leads:
        assert leads and distributed.world_size() == 1 and distributed.rank() == 0
        assert distributed.run_on_all_ranks(sum, [1, 2]) == [3]
        assert distributed.local_shard([1, 2, 3]) == [1, 2, 3]


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch_size(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    item, two = tmp_path / "one", tmp_path / "two"
    alone = study(learners["llama"], tmp_path, per_device_train_batch_size=8)
    prooftune.run(alone, out=item)
    recipe = written(
        study(learners["llama"], tmp_path, per_device_train_batch_size=4), tmp_path / "two.yaml"
    )
    done = subprocess.run(
        launched(recipe, two), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tuned: accuracy") == 1  # the leader alone speaks
    expected, matches = losses(item), losses(two)
    assert len(expected["loss"]) == 2 * 9 and len(expected["eval_loss"]) >= 3
    for kind, values in expected.items():
        assert matches[kind] == pytest.approx(values, rel=2e-3), kind
    ours, theirs = weights(item), weights(two)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=2e-4), name
    for variant in ("zero-shot", "tuned"):
        ours_, theirs_ = (
            read_predictions(folder / "variants" / variant / "predictions.parquet")
            for folder in (item, two)
        )
        assert [p.id for p in ours_] == [p.id for p in theirs_] and [p.output for p in ours_] == [
            p.output for p in theirs_
        ]
        for mine, other in zip(ours_, theirs_, strict=True):
            assert mine.log_probs == pytest.approx(other.log_probs, abs=5e-3)
    assert "batches of 8" in details_of(two, "tuned")["description"]
    assert details_of(two, "tuned")["training"]["arguments"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.kernel
def test_two_processes_equal_one_in_int8(learners: dict[str, Path], tmp_path: Path) -> None:
    """Weights are laid out by the same rows in all of them; what comes after is rounding that adds
    up."""
    if not int8_linear.is_available():
        pytest.skip("no int8 products here: they need AVX512-VNNI and a C compiler")
    matches = []
    for count in (1, 2):
        values = study(
            learners["llama"], tmp_path, per_device_train_batch_size=8 // count, num_train_epochs=1
        )
        values |= {
            "variants": ["tuned"],
            "model": {"name": str(learners["llama"]), "dtype": "bfloat16", "int8_training": True},
        }
        recipe, folder = written(values, tmp_path / f"{count}.yaml"), tmp_path / str(count)
        alone = [sys.executable, "-m", "prooftune", "run", str(recipe), "--out", str(folder)]
        command = launched(recipe, folder) if count > 1 else alone
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("model.int8_training") == 1 and "not possible" not in done.stderr
        assert read_json(folder / "report.json")["environment"]["frozen_products"] == "int8"
        matches.append(losses(folder)["loss"])
    item, two = matches
    assert len(item) == 9 and item[-1] < 0.9 * item[0]
    assert two[0] == pytest.approx(item[0], rel=5e-3) and two == pytest.approx(item, rel=0.05)


@pytest.mark.slow
def test_a_process_killed_in_the_middle_ends_the_run_which_then_goes_on(
    learners: dict[str, Path], tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    recipe = written(
        study(learners["llama"], tmp_path, per_device_train_batch_size=4, num_train_epochs=30),
        tmp_path / "r.yaml",
    )
    done = subprocess.run(
        launched(recipe, straight), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(launched(recipe, killed), stderr=log, env=environment()) as launcher,
    ):
        end = time.monotonic() + PATIENCE
        while not steps_kept(killed, "tuned"):
            assert launcher.poll() is None and time.monotonic() < end, (
                tmp_path / "log"
            ).read_text()
            time.sleep(0.01)
        helper = next(pid for pid in _children(launcher.pid) if _variable(pid, "RANK") == "1")
        os.kill(helper, signal.SIGKILL)
        assert launcher.wait(PATIENCE) != 0
    output = (tmp_path / "log").read_text()
    ours = output.partition("Traceback")[0]  # what follows is the launcher's
    assert "The same command resumes from the finished stages and the last checkpoint" in ours, (
        output
    )
    assert not (killed / "variants" / "tuned" / "trained").exists()
    done = subprocess.run(
        launched(recipe, killed), capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0 and "resuming after step" in done.stderr, done.stderr
    before, after = weights(straight), weights(killed)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


_TELL = "os.kill(os.getppid(), signal.SIGTERM); time.sleep(1)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "pause"),
    [("os._exit(3)", 0), (_TELL, 0), (_TELL, 0.5)],
    ids=["lost", "told", "while telling"],
)
def test_the_error_is_printed_although_the_launcher_sends_sigterm(
    tmp_path: Path, end: str, pause: float
) -> None:
    (tmp_path / "helping.py").write_text(
        f"import os, signal, time\ndef work():\n    if os.environ['RANK'] == '1':\n        {end}\n"
        "    from torch import distributed\n    distributed.barrier()\n"
    )
    (tmp_path / "leading.py").write_text(
        "import os, signal, subprocess, sys, time, helping\n"
        "from prooftune.utils import distributed as processes\nfrom prooftune.errors import "
        "Failure\n"
        "broadcast = processes._broadcast\ndef slowly(message):\n"
        "    sent = broadcast(message)\n    "
        f"time.sleep({pause})\n    return sent\n"
        "if os.environ['RANK'] == '0': processes._broadcast = slowly\n"
        "if os.environ['RANK'] == '0': subprocess.Popen([sys.executable, __file__], "
        "env=os.environ | {'RANK': '1'})\n"
        "try:\n    with processes.process_group() as leads:\n        if leads: "
        "processes.run_on_all_ranks(helping.work)\n"
        "except Failure as failure:\n    os.kill(os.getpid(), signal.SIGTERM)\n    print(failure)\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "leading.py")],
        capture_output=True,
        text=True,
        check=False,
        env=environment() | address,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "The same command resumes" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sharded_training_equals_unsharded_training(
    model_folders: dict[str, Path], dtype: str
) -> None:
    script = Path(__file__).parents[1] / "training" / "sharded.py"
    done = subprocess.run(
        [*TORCHRUN, str(script), str(model_folders["llama"]), dtype],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_user_error_is_printed_once_and_ends_all_processes(
    tmp_path: Path, launcher: list[str]
) -> None:
    recipe = written(
        {
            "name": "wrong",
            "data": {"train": "none.csv", "text": "text", "label": "label"},
            "variants": ["majority"],
        },
        tmp_path / "r.yaml",
    )
    command = [*launcher, *RUN, str(recipe), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode != 0 and done.stderr.count("none.csv") == 1, done.stderr


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _variable(pid: int, name: str) -> str | None:
    pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return next((value for key, _, value in pairs if key == name), None)
