"""Studies with models of 1B and 2B parameters on this machine: time, memory, and their estimates.

    python benchmarks/large_models.py [--models NAME ...] [--rows 16] [--folder FOLDER]
    [--data FOLDER]
    python benchmarks/large_models.py --tiny        # the same commands with tiny models

Models have the shapes of Llama-3.2-1B and Gemma-2-2B and random weights, since only sizes matter
for time and memory: nothing is downloaded, and nothing is learned. Every command is Prooftune's
own, in a separate process: `check --thorough`, `run` (zero-shot and LoRA of rank 16 on all linear
layers), `predict` with the bundle read back, `export --to merged` with its parity check. Peak
memory is that of the process by its parent. With `--data`, the folder of the public data sets,
`training.py` then trains Prooftune and TRL with its defaults on rows of AG News with each model
(needs trl==1.16.0). The folder needs 5 GB for the 1B model, 10 GB for the
2B model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from contest import MEASURED, machine
from estimates import rows_of_report
from gpu import GEMMA_2B, LLAMA_1B, make_model

SHAPES = {"llama-3.2-1b": LLAMA_1B, "gemma-2-2b": GEMMA_2B}
WORDS_PER_TEXT = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--rows", type=int, default=16, help="training rows (default 16)")
    parser.add_argument("--folder", type=Path, help="where models and runs are kept")
    parser.add_argument("--data", type=Path, help="folder of the public data sets, for TRL")
    parser.add_argument("--tiny", action="store_true", help="tiny models of the same families")
    options = parser.parse_args()
    path = MEASURED / "large_models.json"
    MEASURED.mkdir(exist_ok=True)
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            result = measure(name, Path(temporary), options)
        print(json.dumps(result, indent=1), flush=True)
        if not options.tiny:
            add_result(path, result)


def add_result(path: Path, result: dict[str, Any]) -> None:
    """Write a model's figures beside those of other models that were measured before."""
    earlier = json.loads(path.read_text("utf-8"))["models"] if path.exists() else []
    words = " ".join(sys.argv[1:])
    record = {
        "command": f"python benchmarks/large_models.py {words}".strip(),
        "models": [*(one for one in earlier if one["model"] != result["model"]), result],
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
    }
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all commands on one model.

    Returns:
        The model's parameters, the figures of each command (``seconds``, ``peak_bytes``), for each
        variant the estimate beside the actual cost, and the figures of `training.py`.
    """
    model = folder / name
    parameters = save_model(name, model, options.tiny)
    recipe = write_study(folder, model, options.rows)
    run, bundle = folder / "run", folder / "run" / "bundle"
    commands = {
        "check": ["check", recipe, "--thorough"],
        "run": ["run", recipe, "--out", run],
        "predict": ["predict", bundle, folder / "rows.csv", "--out", folder / "out.csv"],
        "export": ["export", bundle, "--to", "merged", "--out", folder / "merged"],
    }
    figures = {command: timed(words) for command, words in commands.items()}
    parity = json.loads((folder / "merged" / "export.json").read_text("utf-8"))["parity"]
    return {
        "model": name,
        "parameters": parameters,
        "commands": figures,
        "variants": rows_of_report(run),
        "export_agreement": parity["agreement"],
        "training": train_beside_trl(model, options) if options.data else None,
    }


def train_beside_trl(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians and ratios of `training.py`, one pair of trainings."""
    script = Path(__file__).with_name("training.py")
    words = ["--data", options.data, "--model", model, "--rows", options.rows, "--repeats", 1]
    command = [sys.executable, script, *words, "--only", "prooftune", "trl-defaults"]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return result


def save_model(name: str, folder: Path, tiny: bool) -> int:
    """Save random weights in the dtype that this CPU computes in; the number of parameters."""
    from prooftune.models.loading import DEFAULT_MODEL, compute_dtype, load_tokenizer, resolve

    # The tokenizer of the embedded model: its ids are below every vocabulary here.
    tokenizer = load_tokenizer(resolve(DEFAULT_MODEL))
    model = make_model(name, tiny, "eager")
    if tiny:
        model.resize_token_embeddings(len(tokenizer))
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.data.normal_(0, 0.02)
    model = model.to(compute_dtype())
    model.save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    return count


def write_study(folder: Path, model: Path, rows: int) -> Path:
    """A file of random words with two labels, and a recipe for it."""
    draw = Random(0)

    def text() -> str:
        words = ("".join(draw.choices("aeiouklmnprst", k=5)) for _ in range(WORDS_PER_TEXT))
        return " ".join(words)

    lines = [f"{text()},{('first', 'second')[i % 2]}" for i in range(3 * rows)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    study = {
        "name": "large",
        "model": str(model),
        "data": {"train": "rows.csv", "limit": {"train": rows, "validation": 8, "test": 8}},
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "training": {"num_train_epochs": 1, "learning_rate": 1e-3},
        "audit": {"label_errors": 0},
        "variants": ["zero-shot", "tuned"],
        "bundle": {"variant": "tuned"},
    }
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps(study), "utf-8")
    return recipe


def timed(words: list[Any]) -> dict[str, float]:
    """Seconds and peak memory of one command, which must succeed."""
    command = [sys.executable, "-m", "prooftune", "--quiet", *map(str, words)]
    started = time.perf_counter()
    # The parent's largest child so far would hide a smaller one, so each has a separate parent.
    code = (
        "import resource, subprocess, sys;"
        "done = subprocess.run(sys.argv[1:], stdout=2).returncode;"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": 1024 * int(done.stdout.split()[-1])}


if __name__ == "__main__":
    main()
