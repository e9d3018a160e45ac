"""Many requests at once, and the server's end: nobody who was taken is left without an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prooftune.serving.app import Options
from prooftune.serving.limits import Limits
from serving.made import live
from study.small import classifier


def held(server: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The bundle computes when it is let go; and an event that it has begun."""
    bundle = server.service.served["topics"].bundle
    begun, go, real = threading.Event(), threading.Event(), type(bundle).predict

    def wait(self: Any, *args: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return real(self, *args, **options)

    monkeypatch.setattr(type(bundle), "predict", wait)
    return begun, go


@pytest.mark.slow
def test_a_flood_is_answered_or_told_when_to_come_again(folders: dict[str, Path]) -> None:
    texts = ["goal scored", "planet orbit"] * 4
    expected = [a.label for a in classifier(folders["topics"]).predict(texts)]
    with live(
        {"topics": folders["topics"]}, Options(limits=Limits(max_queue_rows=32, max_batch_size=16))
    ) as server:

        def ask(_: int) -> httpx2.Response:
            return httpx2.post(f"{server.url}/v1/classify", json={"texts": texts}, timeout=60)

        with ThreadPoolExecutor(40) as pool:
            replies = list(pool.map(ask, range(160)))
        counts = {
            status: sum(r.status_code == status for r in replies)
            for status in {r.status_code for r in replies}
        }
        assert set(counts) == {200, 429}, counts
        for reply in replies:
            if reply.status_code == 200:
                assert [r["label"] for r in reply.json()["results"]] == expected
            else:
                assert (
                    1 <= int(reply.headers["retry-after"]) <= 60
                    and reply.json()["error"]["type"] == "rate_limit_error"
                )
        assert ask(0).status_code == 200
        assert server.service.served["topics"].batcher.queued_rows() == 0


def test_more_requests_at_once_than_allowed_are_refused_unread(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        live({"topics": folders["topics"]}, Options(limits=Limits(max_requests=1))) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        begun, go = held(server, monkeypatch)
        first = pool.submit(
            httpx2.post, f"{server.url}/v1/classify", json={"texts": ["goal"]}, timeout=60
        )
        assert begun.wait(30)
        assert (
            httpx2.post(f"{server.url}/v1/classify", json={"texts": ["goal"]}).json()["error"][
                "code"
            ]
            == "too_many_requests"
        )
        assert (
            httpx2.get(f"{server.url}/healthz").status_code == 200
        )  # probes are answered whatever goes on
        go.set()
        assert first.result().status_code == 200


def test_time_over_is_told_apart_by_whether_it_was_begun(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        live({"topics": folders["topics"]}, Options(limits=Limits(timeout_seconds=1.0))) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        begun, go = held(server, monkeypatch)
        first = pool.submit(
            httpx2.post, f"{server.url}/v1/classify", json={"texts": ["goal"]}, timeout=60
        )
        assert begun.wait(30)
        second = httpx2.post(f"{server.url}/v1/classify", json={"texts": ["goal"]}, timeout=60)
        assert second.status_code == 503 and second.headers["retry-after"] == "5"
        assert first.result().status_code == 504
        go.set()


def test_a_client_that_leaves_is_not_computed(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with live({"topics": folders["topics"]}) as server, ThreadPoolExecutor(1) as pool:
        begun, go = held(server, monkeypatch)
        first = pool.submit(
            httpx2.post, f"{server.url}/v1/classify", json={"texts": ["goal"]}, timeout=60
        )
        assert begun.wait(30)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(
                f"{server.url}/v1/classify",
                json={"texts": ["gone"] * 7},
                timeout=httpx2.Timeout(60, read=0.5),
            )
        while not any(line["status"] == 499 for line in server.lines()):
            time.sleep(0.05)
        go.set()
        assert first.result().status_code == 200
        figures = httpx2.get(f"{server.url}/metrics").text
        assert 'prooftune_rows_total{model="topics"} 1.0' in figures


def test_while_it_stops_it_finishes_what_it_has_and_says_so_to_others(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with live({"topics": folders["topics"]}) as server, ThreadPoolExecutor(1) as pool:
        begun, go = held(server, monkeypatch)
        first = pool.submit(
            httpx2.post, f"{server.url}/v1/classify", json={"texts": ["goal"]}, timeout=60
        )
        assert begun.wait(30)
        server.service.activity.ready = False
        assert httpx2.get(f"{server.url}/readyz").status_code == 503
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        refused = httpx2.post(f"{server.url}/v1/classify", json={"texts": ["goal"]})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "stopping"
        go.set()
        assert first.result().status_code == 200


@pytest.mark.slow
def test_sigterm_under_load_loses_no_accepted_request(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A server process under load from many clients that continue after SIGTERM."""
    texts = ["goal scored", "planet orbit science", "stocks fell"]
    expected = [a.label for a in classifier(folders["topics"]).predict(texts)]
    command = [
        sys.executable,
        "-m",
        "prooftune",
        "serve",
        f"topics={folders['topics']}",
        "--port",
        "0",
    ]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            command, stderr=log, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        try:
            url = _started(tmp_path / "log", process)
            outcomes: dict[str, Any] = {}
            stop = threading.Event()

            def ask(worker: int) -> None:
                with httpx2.Client(timeout=60) as client:
                    for number in range(10_000):
                        name = f"r-{worker}-{number}"
                        try:
                            reply = client.post(
                                f"{url}/v1/classify",
                                json={"texts": texts},
                                headers={"x-request-id": name},
                            )
                        except httpx2.TransportError as error:
                            outcomes[name] = type(error).__name__
                            return
                        outcomes[name] = reply.status_code
                        if reply.status_code == 200:
                            assert [r["label"] for r in reply.json()["results"]] == expected
                        elif stop.is_set():
                            time.sleep(0.01)

            with ThreadPoolExecutor(16) as pool:
                workers = [pool.submit(ask, n) for n in range(16)]
                while sum(status == 200 for status in list(outcomes.values())) < 100:
                    time.sleep(0.02)
                    assert process.poll() is None
                stop.set()
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
                for worker in workers:
                    worker.result()
        finally:
            process.kill()
            process.wait()
    lines = [
        json.loads(line)
        for line in (tmp_path / "log").read_text().splitlines()
        if line.startswith("{")
    ]
    assert lines[-1]["event"] == "stopped" and lines[-1]["accepted"] == lines[-1]["finished"] >= 100
    seen = {
        line["request"]: line["status"]
        for line in lines
        if line["event"] == "request" and line["route"] == "/v1/classify"
    }
    assert not [line for line in lines if line["event"] == "error"]
    for name, status in outcomes.items():
        # Every request that reached the application was answered, and the client has the answer.
        assert status == seen[name] if name in seen else isinstance(status, str), (
            name,
            status,
            seen.get(name),
        )
    assert set(seen.values()) <= {200, 503} and all(
        outcomes[name] == status for name, status in seen.items()
    )


def _started(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address of a server that has started."""
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("{") and json.loads(line)["event"] == "started":
                return str(json.loads(line)["url"])
        time.sleep(0.1)
    raise AssertionError(log.read_text())
