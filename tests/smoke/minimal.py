"""With the minimal install (no extras): every module imports or names its extra, and a study runs.

PYTHONPATH=tests python -m smoke.minimal [FOLDER]
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import prooftune
from prooftune.errors import ProoftuneError
from smoke.running import CommandRunner, work_folder, write_inputs

EXTRAS = (
    "fastapi",
    "lancedb",
    "openai",
    "sacrebleu",
    "sentencepiece",
    "datasets",
    "bitsandbytes",
    "tensorboard",
    "ray",
    "llama_cpp",
)
TINY = [
    "--model",
    "./llama3",
    "--set",
    "training.num_train_epochs=1",
    "--set",
    "evaluation.resamples=100",
]


def import_all_modules() -> dict[str, str]:
    """Import every module of the package.

    Returns:
        Module -> the extra that its error names, where it needs one.
    """
    needs: dict[str, str] = {}

    def add(name: str, error: BaseException) -> None:
        extra = re.search(r"pip install 'prooftune\[([\w-]+)\]'", str(error))
        if not isinstance(error, ProoftuneError) or extra is None:
            raise error
        needs[name] = extra[1]

    def walk(name: str) -> None:
        try:
            module = importlib.import_module(name)
        except ProoftuneError as error:
            add(name, error)
            return
        for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
            if found.name != "__main__":
                walk(f"{name}.{found.name}")

    walk("prooftune")
    return needs


def missing_extras(runner: CommandRunner) -> None:
    """Use every extra that is not installed: each is named, with exit code 2."""

    def refused(extra: str, *arguments: str) -> None:
        runner.run(*arguments, code=2, says=f"pip install 'prooftune[{extra}]'")

    Path("meta-llama2").mkdir()
    Path("meta-llama2/params.json").write_text(
        Path("meta-llama3/params.json").read_text("utf-8"), "utf-8"
    )
    Path("meta-llama2/consolidated.00.pth").write_bytes(
        Path("meta-llama3/consolidated.00.pth").read_bytes()
    )
    Path("meta-llama2/tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    Path("questions.jsonl").write_text(
        "".join(
            json.dumps(
                {
                    "question": f"how long {n}",
                    "context": f"for {n} years",
                    "answers": [f"{n} years"],
                }
            )
            + "\n"
            for n in range(40)
        ),
        "utf-8",
    )
    run = ["run", "reviews.yaml", *TINY, "--out", "refused"]
    refused("convert", "convert", "meta-llama2", "llama2")
    refused("serve", "serve", "runs/reviews/bundle")
    refused("retrieval", "index", "policies", "--out", "policies-index", "--embedding", "./llama3")
    refused("retrieval", "search", "policies-index", "how long")
    refused(
        "ray", "predict", "runs/reviews/bundle", "new.csv", "--out", "ray.csv", "--engine", "ray"
    )
    refused("llama-cpp", "export", "runs/reviews/bundle", "--to", "gguf-q4_k_m", "--out", "q4")
    refused("hub", *run, "--set", "data.train=hub:someone/something")
    refused("quantization", *run, "--set", "quantization.load_in_4bit=true")
    refused("tracking", *run, "--set", "training.report_to=tensorboard")
    refused(
        "judge", *run, "--set", "judge.model=m", "--set", "judge.base_url=http://127.0.0.1:9/v1"
    )
    runner.run("init", "questions.jsonl")
    refused("answers", "run", "questions.yaml", *TINY)


def main() -> None:
    installed = [name for name in EXTRAS if find_spec(name)]
    if installed:
        sys.exit(f"{', '.join(installed)} is installed: this is no minimal install")
    needs = import_all_modules()
    print(
        f"prooftune {prooftune.__version__} at {Path(prooftune.__file__).parent}: "
        f"all modules import, but for {needs}"
    )
    runner = CommandRunner()
    with work_folder(sys.argv[1] if len(sys.argv) > 1 else None):
        write_inputs(["llama3"])
        runner.run("recipes", says="demo-qa")
        runner.run("convert", "meta-llama3", "llama3", "--chat")
        runner.run("init", "reviews.csv")
        runner.run("run", "reviews.yaml", *TINY, says="Bundle: runs/reviews/bundle")
        runner.run(
            "predict",
            "runs/reviews/bundle",
            "new.csv",
            "--out",
            "labelled.csv",
            says="2 rows written",
        )
        missing_extras(runner)


if __name__ == "__main__":
    main()
