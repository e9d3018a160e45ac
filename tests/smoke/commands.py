"""Every command of the CLI, with the packages of requirements/run.txt and no others.

    PYTHONPATH=tests python -m smoke.commands [FOLDER]

The models are tiny; vaderSentiment, whose data the recipe `demo` reads, comes from the
package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer.main import get_command

from judge.server import serving as judge_server
from prooftune.cli.app import app
from retrieval.tiny import bert
from smoke.running import CommandRunner, work_folder, write_inputs

NOT_IN_RUN = ("pytest", "datasets", "bitsandbytes", "pandas", "tiktoken", "statsmodels", "ray")
TINY = ["--set", "training.num_train_epochs=1", "--set", "evaluation.resamples=100"]
ONE_MODEL = ["--model", "./llama3", "--set", "model.dtype=float32"]
POLICIES = """
name: policies
task: free-text-qa
data: {train: questions.jsonl, splitting: {method: random}}
model: {name: ./llama3, dtype: float32}
retrieval: {documents: policies, passages: 1, embedding: ./encoder}
training: {num_train_epochs: 1, report_to: tensorboard, logging_steps: 1}
answering: {max_new_tokens: 4}
evaluation: {resamples: 100}
variants:
  base: {kind: zero-shot}
  tuned-with-retrieval: {kind: tuned, context: retrieved}
"""


def convert(runner: CommandRunner) -> None:
    runner.run("convert", "meta-llama2", "llama2", says="llama2")
    runner.run("convert", "meta-llama3", "llama3", "--chat", says="chat template")


def classification(runner: CommandRunner) -> None:
    """From a CSV file to a bundle, and what is done with one."""
    runner.run("init", "reviews.csv", says="Wrote reviews.yaml")
    runner.run("check", "reviews.yaml", *ONE_MODEL)
    runner.run(
        "run",
        "reviews.yaml",
        *ONE_MODEL,
        *TINY,
        "--set",
        "training.report_to=tensorboard",
        says="runs/reviews/bundle",
    )
    runner.run(
        "run",
        "reviews.yaml",
        "--model",
        "./llama2",
        *TINY,
        "--set",
        "variants=[majority, tfidf, zero-shot, tuned]",
        "--out",
        "runs/llama2",
    )
    runner.run("report", "runs/reviews", says="runs/reviews/report.html")
    runner.run("compare", "runs/reviews", "runs/llama2")
    runner.run(
        "predict",
        "runs/reviews/bundle",
        "new.csv",
        "--out",
        "labelled.parquet",
        says="2 rows written",
    )
    runner.run(
        "evaluate",
        "runs/reviews/bundle",
        "reviews.csv",
        "--against",
        "runs/llama2/bundle",
        "--out",
        "evaluation",
        says="on these 60 rows",
    )
    runner.run(
        "evaluate",
        "runs/reviews/bundle",
        "reviews.csv",
        "--slice",
        "label",
        "--limit",
        "20",
        says="on these 20 rows",
    )
    runner.run(
        "evaluate",
        "runs/reviews/bundle",
        "reviews.csv",
        "--table",
        "batching",
        "--limit",
        "8",
        says="of 8 rows",
    )
    runner.run("chat", "runs/reviews/bundle", stdin="loved good film\n")
    for name in ("merged", "vllm", "gguf-f16", "gguf-q8_0", "ollama"):
        runner.run(
            "export", "runs/reviews/bundle", "--to", name, "--out", f"export-{name}", "--unchecked"
        )
    runner.run(
        "export",
        "runs/reviews/bundle",
        "--to",
        "merged",
        "--out",
        "checked",
        says="Export: checked",
    )
    runner.run("publish", "runs/reviews/bundle", "me/reviews", says="Nothing was sent")
    Path("texts.csv").write_text("id,text\n1,so good\n2,so bad\n", "utf-8")
    Path("labels.csv").write_text("id,label\n2,negative\n1,positive\n", "utf-8")
    runner.run("data", "join", "texts.csv", "labels.csv", "--out", "joined.jsonl", says="2 rows")
    runner.run("data", "export", "reviews.yaml", "--format", "chat", "--out", "chat-data")
    runner.run("data", "export", "reviews.yaml", "--to", "axolotl", "--out", "axolotl-data")
    runner.run("init", "--from", "axolotl-data/config.yaml", "--out", "back.yaml", says="Wrote")


def demo(runner: CommandRunner) -> None:
    """The demo's recipe on a tiny model and few rows; CI runs `prooftune demo` itself elsewhere."""
    limits = [
        f"data.limit.{split}={rows}"
        for split, rows in {"train": 40, "validation": 20, "test": 40}.items()
    ]
    runner.run("recipes", says="demo-qa")
    runner.run("recipes", "demo", says="vaderSentiment")
    runner.run(
        "run",
        "demo",
        *ONE_MODEL,
        *TINY,
        "--set",
        "prompt.max_length=400",
        *(word for limit in limits for word in ("--set", limit)),
    )
    runner.run("demo", "nothing", code=2, says="one of reviews, qa")
    runner.run("power", "--accuracy", "0.9", "--difference", "2")


def questions(runner: CommandRunner) -> None:
    """Documents, search, a study with retrieval and a judge at an endpoint, and answers."""
    bert(Path("encoder"))
    runner.run(
        "index",
        "policies",
        "--out",
        "policies-index",
        "--embedding",
        "./encoder",
        says="1 passage",
    )
    runner.run("search", "policies-index", "How long is personal data kept?", says="privacy.md")
    Path("questions.jsonl").write_text(
        "".join(
            json.dumps({"question": f"How long is data {n} kept?", "answer": "two years"}) + "\n"
            for n in range(40)
        ),
        "utf-8",
    )
    Path("policies.yaml").write_text(POLICIES, "utf-8")
    with judge_server() as judge:
        runner.run(
            "run",
            "policies.yaml",
            "--set",
            "judge.model=m",
            "--set",
            f"judge.base_url={judge.url}",
            "--set",
            "judge.rows=2",
        )
    if not judge.seen:
        sys.exit("FAILED: the judge was never asked")
    Path("asked.csv").write_text("question\nHow long?\n", "utf-8")
    runner.run(
        "predict",
        "runs/policies/bundle",
        "asked.csv",
        "--out",
        "answered.csv",
        says="1 row written",
    )
    runner.run("evaluate", "runs/policies/bundle", "questions.jsonl", says="on these 40 questions")


def serve(runner: CommandRunner) -> None:
    """Serve on a free port, ask once, and stop with SIGTERM."""
    command = [sys.executable, "-m", "prooftune", "serve", "runs/reviews/bundle", "--port", "0"]
    spoken = {name: value for name, value in os.environ.items() if name != "PROOFTUNE_QUIET"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=spoken
    ) as process:
        assert process.stdout is not None
        # Reading has no timeout of its own.
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if "http://" in line:
                break
        else:
            sys.exit(f"{''.join(lines)}\nFAILED: {' '.join(command)}")
        url = lines[-1][lines[-1].index("http://") :].split()[0].rstrip("/.,")
        body = json.dumps({"texts": ["loved good film"]}).encode()
        request = urllib.request.Request(
            f"{url}/v1/classify", body, {"Content-Type": "application/json"}
        )
        answer = _fetch(request, seconds=30)
        process.terminate()
        process.wait(60)
        watchdog.cancel()
    if process.returncode != 0:
        sys.exit(f"FAILED: serve ended with {process.returncode} after SIGTERM")
    print(f"ok           prooftune serve: {answer}")
    runner.commands.add("serve")


def _fetch(request: urllib.request.Request, seconds: float) -> Any:
    """The JSON reply; a refused connection is tried again, since the address is printed first."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main() -> None:
    installed = [name for name in NOT_IN_RUN if find_spec(name)]
    if installed:
        sys.exit(
            f"{', '.join(installed)} is installed: this environment has more than "
            "requirements/run.txt"
        )
    runner = CommandRunner()
    with work_folder(sys.argv[1] if len(sys.argv) > 1 else None):
        write_inputs(["llama2", "llama3"])
        for part in (convert, classification, demo, questions, serve):
            part(runner)
        if not list(Path("runs/reviews/logs/tuned").rglob("events.out.tfevents*")):
            sys.exit("FAILED: report_to: tensorboard wrote no events")
    missing = set(get_command(app).commands) - runner.commands  # type: ignore[attr-defined]
    if missing:
        sys.exit(f"FAILED: not run: {', '.join(sorted(missing))}")
    print(f"All {len(runner.commands)} commands work with requirements/run.txt.")


if __name__ == "__main__":
    main()
