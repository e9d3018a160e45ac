"""More threads while others want the cores, and as many as before when they do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prooftune.engine import threads
from prooftune.engine.fused.patching import fused
from prooftune.engine.threads import (
    ThreadsByContention,
    scheduling_times,
    threads_by_contention,
    waiting_share,
)
from prooftune.models.adapters import make_trainable
from prooftune.recipe import Variant
from prooftune.training.objective import TuningModule
from prooftune.training.rows import TrainingRow, make_collator


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in threads.THREAD_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Scheduler:
    """Linux's counts of a thread that waits for `share` of the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.share = 0.0
        self._ran = self._waited = 0
        monkeypatch.setattr(threads, "scheduling_times", self.times)

    def times(self) -> tuple[int, int]:
        self._ran += round(1000 * (1 - self.share))
        self._waited += round(1000 * self.share)
        return self._ran, self._waited


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(monkeypatch)


def step(control: ThreadsByContention) -> int:
    """A step; the threads of the next."""
    control.begin_step()
    control.end_step()
    return torch.get_num_threads()


def test_threads_follow_contention(scheduler: Scheduler) -> None:
    with threads_by_contention() as control:
        assert step(control) == 2
        scheduler.share = 0.6
        assert step(control) == 3
        # One step in twenty with the usual number shows that others are still busy.
        assert [step(control) for _ in range(21)] == [3] * 19 + [2, 3]
        scheduler.share = 0.0
        assert [step(control) for _ in range(25)] == [3] * 19 + [2] * 6
        scheduler.share = 0.6
        step(control)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("share", "expected"), [(0.1, 2), (0.2, 3)])
def test_short_waits_are_usual(scheduler: Scheduler, share: float, expected: int) -> None:
    scheduler.share = share
    with threads_by_contention() as control:
        assert step(control) == expected


def test_threads_that_the_user_chose_stay(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    scheduler.share = 0.6
    with threads_by_contention() as control:
        assert step(control) == 2


def test_systems_that_do_not_count_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert scheduling_times(tmp_path / "missing") is None
    (tmp_path / "other").write_text("a b\n")
    assert scheduling_times(tmp_path / "other") is None
    monkeypatch.setattr(threads, "scheduling_times", lambda: None)
    with threads_by_contention() as control:
        assert step(control) == 2


def test_inner_blocks_change_nothing(scheduler: Scheduler) -> None:
    scheduler.share = 0.6
    with threads_by_contention() as control:
        assert step(control) == 3
        with threads_by_contention() as inner:
            assert step(inner) == 3
        assert torch.get_num_threads() == 3
    with threads_by_contention() as control:
        assert step(control) == 3


def test_share_of_waiting() -> None:
    assert waiting_share((5, 1), (8, 2)) == 0.25
    assert waiting_share((5, 1), (5, 1)) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_thread_that_waits_for_a_core() -> None:
    """Two processes that share a core wait for each other for about half of the time."""
    code = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
end = time.monotonic() + 1
while time.monotonic() < end: pass
print(*open("/proc/thread-self/schedstat").read().split()[:2])
"""
    if scheduling_times() is None:
        pytest.skip("this kernel does not count waits")
    pair = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    counts = [tuple(map(int, process.communicate()[0].split())) for process in pair]
    shares = [waiting_share((0, 0), (ran, waited)) for ran, waited in counts]
    assert max(shares) > 0.15, shares


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits_with_any_number_of_threads(dtype: torch.dtype) -> None:
    """So the number of threads may follow the load without changing a result."""
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(dtype)
    module = TuningModule(make_trainable(model, Variant(kind="tuned"), {})).train()
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        torch.nn.init.normal_(parameter, std=0.02)
    rows = [
        TrainingRow([(7 * i + j) % 500 for j in range(60 + i)], [58 + i, 59 + i], [i, 2])
        for i in range(12)
    ]
    batch = make_collator([*range(40)], module.packed)(rows)
    results = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        with fused(module.model), torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            out = module(**batch)
        (out["loss_sum"] / out["count"]).backward()
        results.append([out["loss_sum"].detach(), *(p.grad for p in trainable)])
        module.zero_grad()
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
