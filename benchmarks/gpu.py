"""Training, scoring and generation on one GPU, in at most 8 minutes, against TRL and Unsloth.

    pip install trl liger-kernel unsloth vllm      # those that you want to compare; all optional
    python benchmarks/gpu.py --out FOLDER [--budget 480] [--only NAME ...] [--models NAME ...]
    python benchmarks/gpu.py --out FOLDER --dry-run        # tiny models, also on a CPU

Models have random weights, made on the device, so that nothing is downloaded: only their sizes
matter for time and memory. LoRA of rank 16 on all linear layers, bfloat16, the loss on the last 4
tokens of each row. Two shapes: rows of 100 tokens of which 50 are shared, and of 600 of which 200
are shared. Every contestant has a process of its own per model, with a limit of 45 seconds per
shape; results are written to ``gpu.jsonl`` after each, the largest model first, and printed. A
contestant whose library is missing is named. Before all, a preflight runs one backward pass.
``benchmarks/page.py`` writes the table of docs/benchmarks.md from ``benchmarks/measured/gpu`` and
``benchmarks/measured/gpu-dry-run``.

* ``prooftune``: as a study trains, with the attention that ``auto`` chooses.
* ``prooftune-matmuls``: with ``model.attention: shared-prefix``.
* ``prooftune-sdpa``: with ``model.attention: sdpa``, rows padded.
* ``trl-liger``: ``SFTTrainer`` with Liger kernels, padding-free batches by FlashAttention where it
  is installed, without gradient checkpointing; ``trl-liger-checkpointing``: with it, its default.
* ``unsloth``: Unsloth's model and TRL's trainer.
* ``inference``: 2,000 label scorings and 256 generations by Prooftune; ``vllm``: the generations.

Times are those of 15 steps after 5 steps of warm-up, between CUDA events. ``tokens_per_second``
counts every row's tokens in full; ``mfu`` counts 4 operations per weight and token that is really
computed (frozen weights have no gradient), of the GPU's 16-bit peak. All first losses must agree,
because adapters start at zero.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA_7B: dict[str, Any] = {"model_type": "llama", "vocab_size": 32000}  # transformers' defaults
LLAMA_1B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA_2B: dict[str, Any] = {"model_type": "gemma2"}  # transformers' defaults are Gemma-2-2B's
TINY: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
MODELS = {"llama-2-7b": LLAMA_7B, "llama-3.2-1b": LLAMA_1B, "gemma-2-2b": GEMMA_2B}

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
TARGETS, STOP = 4, 2
WARM_UP, STEPS = 5, 15
SECONDS_PER_SHAPE = 45
PEAK_OPERATIONS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "L4": 121e12,
    "4090": 165e12, "3090": 71e12, "T4": 65e12, "V100": 125e12,
}  # fmt: skip
"""Dense 16-bit operations per second by a part of the GPU's name, from the vendor's data sheets."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of a benchmark: tokens of each, how many of them are shared, and rows per batch."""

    tokens: int
    shared: int
    batch: int


SHAPES = (Shape(100, 50, 64), Shape(600, 200, 16))
TINY_SHAPES = (Shape(20, 10, 4), Shape(40, 16, 2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu.jsonl")
    parser.add_argument("--budget", type=float, default=480, help="seconds in all (default 480)")
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), help="contestants")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--dry-run", action="store_true", help="tiny models, a few steps")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        model, contestant = options.one
        for figures in CONTESTANTS[contestant](model, options.dry_run):
            print(json.dumps(figures), flush=True)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Run contestants one after another until the time is used up."""
    started, results = time.perf_counter(), options.out / "gpu.jsonl"
    results.write_text("")

    def record(figures: dict[str, Any]) -> None:
        with results.open("a") as file:
            file.write(json.dumps(figures) + "\n")
        print(json.dumps(figures), flush=True)

    names = options.only or list(CONTESTANTS)
    record({"preflight": preflight(options.dry_run)})
    for model in options.models:
        for name in names:
            label = {"model": model, "contestant": name}
            missing = [library for library in NEEDS.get(name, ()) if not _installed(library)]
            left = options.budget - (time.perf_counter() - started)
            if missing:
                record({**label, "skipped": f"not installed: {', '.join(missing)}"})
            elif left < 15:
                record({**label, "skipped": "no time left"})
            else:
                limit = min(left, SECONDS_PER_SHAPE * len(SHAPES))
                for figures in _in_process(model, name, options, limit):
                    record({**label, **figures})
    seconds = round(time.perf_counter() - started)
    load = round(os.getloadavg()[1], 1)
    record({"finished": datetime.date.today().isoformat(), "seconds": seconds, "load": load})
    print(f"{seconds} s, results in {results}")
    _print_table([json.loads(line) for line in results.read_text().splitlines()])


def _in_process(
    model: str, name: str, options: argparse.Namespace, limit: float
) -> Iterator[dict[str, Any]]:
    """The figures of a contestant, as far as it gets within the limit."""
    words = [sys.executable, __file__, "--out", str(options.out), "--one", model, name]
    words += ["--dry-run"] if options.dry_run else []
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
        out, error = done.stdout, done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        error = f"stopped after {limit:.0f} s"
    for line in out.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
    if error:
        yield {"error": error.strip().splitlines()[-1][:500]}


def preflight(dry_run: bool) -> dict[str, Any]:
    """One backward pass by each backend, and what the machine is."""
    import torch

    from prooftune.engine.attention.flex_trial import FlexKernel, flex_works
    from prooftune.models.loading import device

    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "flex_works": flex_works(device().type, FlexKernel(), "training"),
        "dry_run": dry_run,
    }
    layer = torch.nn.Linear(64, 64, device=device())
    layer(torch.ones(2, 64, device=device())).sum().backward()
    facts["backward"] = bool(torch.isfinite(layer.weight.grad).all())
    return facts


def make_model(name: str, dry_run: bool, attention: str) -> Any:
    """A model with random weights on the device; the same ones for every contestant."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from prooftune.engine.attention import backends
    from prooftune.models.loading import device

    backends.register()
    options = {**MODELS[name], **(TINY if dry_run else {})}
    if dry_run and name == "gemma-2-2b":
        options["query_pre_attn_scalar"] = TINY["head_dim"]
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    config.pad_token_id = 0
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Buffers such as RoPE's frequencies get their values; weights are drawn below.
        with torch.device(device()), _no_initialisation():
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention
            )
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator(device()).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(0.0 if name.startswith("gemma") else 1.0)
    return model


def _no_initialisation() -> Any:
    from transformers.initialization import no_init_weights

    return no_init_weights()


def own_attention(name: str) -> str:
    """transformers' name of Prooftune's attention: the device's default, or the one named."""
    from prooftune.engine.attention import backends
    from prooftune.models.loading import OWN_ATTENTION, device

    if name == "auto":
        return backends.default_backend(device(), 64)
    return OWN_ATTENTION.get(name, name)


def make_rows(shape: Shape, vocabulary: int, count: int) -> tuple[list[int], list[list[int]]]:
    """Token ids of the shared prefix, and of each row after it."""
    import torch

    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        ids: list[int] = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        return ids

    return draw(shape.shared), [draw(shape.tokens - shape.shared) for _ in range(count)]


class Clock:
    """Milliseconds between the ends of two steps, by CUDA events where there is a GPU."""

    def __init__(self, steps: int, warm_up: int) -> None:
        self.steps, self.warm_up, self.marks = steps, warm_up, list[Any]()

    def tick(self) -> None:
        import torch

        if torch.cuda.is_available():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
            if len(self.marks) == self.warm_up:
                torch.cuda.reset_peak_memory_stats()
        else:
            self.marks.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        import torch

        first, last = self.marks[self.warm_up - 1], self.marks[-1]
        count = len(self.marks) - self.warm_up
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return float(first.elapsed_time(last)) / 1000 / count
        return float(last - first) / count


def training_figures(
    model: Any, shape: Shape, clock: Clock, computed_tokens: int, first_loss: float
) -> dict[str, Any]:
    """Rates and memory of a contestant.

    Args:
        model: for its number of weights.
        shape: of the rows.
        clock: its steps.
        computed_tokens: tokens per step that are really computed.
        first_loss: loss of the first step.
    """
    import torch

    seconds = clock.seconds_per_step()
    cuda = torch.cuda.is_available()
    weights = sum(
        p.numel()
        for n, p in model.named_parameters()
        if p.dim() == 2 and "lora_" not in n and "embed_tokens" not in n
    )
    name = torch.cuda.get_device_name() if cuda else ""
    peak = next((rate for part, rate in PEAK_OPERATIONS.items() if part in name), None)
    return {
        "shape": [shape.tokens, shape.shared, shape.batch],
        "seconds_per_step": seconds,
        "rows_per_second": shape.batch / seconds,
        "tokens_per_second": shape.batch * shape.tokens / seconds,
        "mfu": 4 * weights * computed_tokens / seconds / peak if peak else None,
        "peak_allocated": torch.cuda.max_memory_allocated() if cuda else None,
        "peak_reserved": torch.cuda.max_memory_reserved() if cuda else None,
        "first_loss": first_loss,
    }


def _sizes(dry_run: bool) -> tuple[Sequence[Shape], int, int]:
    """Shapes, steps of warm-up and timed steps."""
    return (TINY_SHAPES, 1, 2) if dry_run else (SHAPES, WARM_UP, STEPS)


def _arguments(shape: Shape, steps: int) -> dict[str, Any]:
    import torch

    return {
        "per_device_train_batch_size": shape.batch,
        "max_steps": steps,
        "learning_rate": 1e-4,
        "warmup_steps": 0,
        "bf16": torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 10_000,
        "logging_first_step": True,
        "train_sampling_strategy": "sequential",
    }


def prooftune_training(attention: str) -> Callable[[str, bool], Iterator[dict[str, Any]]]:
    """Prooftune's trainer, as in a study, with one attention backend."""

    def contestant(name: str, dry_run: bool) -> Iterator[dict[str, Any]]:
        import torch

        from prooftune import recipe
        from prooftune.models import adapters
        from prooftune.training.arguments import training_arguments
        from prooftune.training.objective import TuningModule
        from prooftune.training.rows import TrainingRow
        from prooftune.training.trainer import train

        shapes, warm_up, steps = _sizes(dry_run)
        # SDPA has no soft-capping.
        chosen = "eager" if attention == "sdpa" and name.startswith("gemma") else attention
        model = make_model(name, dry_run, own_attention(chosen))
        torch.manual_seed(0)
        adapted = adapters.make_trainable(model, recipe.Variant(kind="tuned"), LORA)
        state = {n: p.detach().clone() for n, p in adapted.named_parameters() if p.requires_grad}
        for shape in shapes:
            for parameter_name, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    parameter.data.copy_(state[parameter_name])
            prefix, rows = make_rows(
                shape, model.config.vocab_size, shape.batch * (warm_up + steps)
            )
            length = shape.tokens - shape.shared
            training_rows = [
                TrainingRow(ids, range(length - TARGETS - 1, length - 1), ids[-TARGETS:])
                for ids in rows
            ]
            clock = Clock(steps, warm_up)
            with tempfile.TemporaryDirectory() as folder:
                arguments = training_arguments(
                    _arguments(shape, warm_up + steps), Path(folder), rows=len(rows),
                    validation=0, seed=0, dtype=model.dtype, patience=None,
                )  # fmt: skip
                module = TuningModule(adapted)
                log = train(
                    module, training_rows, [], prefix, arguments, description=None,
                    callbacks=[_ticking(clock)],
                )  # fmt: skip
            shared = shape.shared if module.packed else shape.shared * shape.batch
            computed = shared + shape.batch * length
            loss = next(float(entry["loss"]) for entry in log if "loss" in entry)
            yield training_figures(adapted, shape, clock, computed, loss)

    return contestant


def _ticking(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    return Ticking()


def trl_training(
    checkpointing: bool, unsloth: bool = False
) -> Callable[[str, bool], Iterator[dict[str, Any]]]:
    """TRL's `SFTTrainer` on the same rows, with Liger kernels or Unsloth's."""

    def contestant(name: str, dry_run: bool) -> Iterator[dict[str, Any]]:
        if unsloth:
            pass  # before transformers, which it patches
        import torch
        from datasets import Dataset
        from peft import LoraConfig, get_peft_model
        from transformers.utils import is_flash_attn_2_available
        from trl import SFTConfig, SFTTrainer

        shapes, warm_up, steps = _sizes(dry_run)
        flash = is_flash_attn_2_available()
        attention = "eager" if name.startswith("gemma") and not flash else "sdpa"
        model = make_model(name, dry_run, "flash_attention_2" if flash else attention)
        if unsloth:
            from unsloth import FastLanguageModel

            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                del model
                model, _tokenizer = FastLanguageModel.from_pretrained(
                    folder, dtype=torch.bfloat16, load_in_4bit=False, max_seq_length=1024
                )
            adapted = FastLanguageModel.get_peft_model(
                model, r=16, lora_alpha=32, lora_dropout=0,
                use_gradient_checkpointing="unsloth" if checkpointing else False,
            )  # fmt: skip
        else:
            adapted = get_peft_model(model, LoraConfig(**LORA))
        for shape in shapes:
            prefix, rows = make_rows(
                shape, model.config.vocab_size, shape.batch * (warm_up + steps)
            )
            mask = [0] * (shape.tokens - TARGETS) + [1] * TARGETS
            data = Dataset.from_list(
                [{"input_ids": prefix + ids, "completion_mask": mask} for ids in rows]
            )
            clock = Clock(steps, warm_up)
            with tempfile.TemporaryDirectory() as folder:
                config = SFTConfig(
                    output_dir=folder, completion_only_loss=True, disable_tqdm=True,
                    gradient_checkpointing=checkpointing, padding_free=flash, max_length=None,
                    use_liger_kernel=not unsloth and torch.cuda.is_available(),
                    use_cpu=not torch.cuda.is_available(), **_arguments(shape, warm_up + steps),
                )  # fmt: skip
                trainer = SFTTrainer(
                    model=adapted, args=config, train_dataset=data, callbacks=[_ticking(clock)]
                )
                trainer.train()
            loss = next(e["loss"] for e in trainer.state.log_history if "loss" in e)
            computed = shape.batch * shape.tokens
            yield training_figures(adapted, shape, clock, computed, float(loss))

    return contestant


def inference(name: str, dry_run: bool) -> Iterator[dict[str, Any]]:
    """Label scorings and generations behind a shared prefix by Prooftune's engine."""
    import torch

    from prooftune.engine.generation import generate
    from prooftune.engine.precision import autocast
    from prooftune.engine.scoring import score_labels

    shape = TINY_SHAPES[0] if dry_run else Shape(100, 50, 1)
    scorings, generations, new_tokens = (20, 4, 4) if dry_run else (2_000, 256, 48)
    model = make_model(name, dry_run, own_attention("auto")).eval()
    prefix, rows = make_rows(shape, model.config.vocab_size, scorings)
    labels = [[5], [6, 7], [6, 8], [9, 10, 11]]

    def score(some: list[list[int]]) -> None:
        for _ in score_labels(model, prefix, some, labels, STOP, batch_tokens=16384):
            pass

    def write(some: list[list[int]]) -> None:
        # No stop token is ever generated, so that every contestant writes as much.
        for _ in generate(model, prefix, some, -1, max_new_tokens=new_tokens, batch_tokens=65536):
            pass

    with autocast(model):
        for kind, work, some in (
            ("scorings", score, rows),
            ("generations", write, rows[:generations]),
        ):
            work(some[: max(4, len(some) // 10)])  # warm-up
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            work(some)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            yield {
                "kind": kind,
                "rows": len(some),
                "seconds": seconds,
                "rows_per_second": len(some) / seconds,
                "peak_allocated": (
                    torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
                ),
            }


def vllm_generation(name: str, dry_run: bool) -> Iterator[dict[str, Any]]:
    """The same generations by vLLM, prefix caching included."""
    from vllm import LLM, SamplingParams

    shape, generations, new_tokens = Shape(100, 50, 1), 256, 48
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(name, dry_run, "sdpa")
        vocabulary = model.config.vocab_size
        model.save_pretrained(folder)
        del model
        engine = LLM(folder, skip_tokenizer_init=True, enable_prefix_caching=True, dtype="bfloat16")
    prefix, rows = make_rows(shape, vocabulary, generations)
    prompts = [{"prompt_token_ids": prefix + ids} for ids in rows]
    parameters = SamplingParams(
        temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False
    )
    engine.generate(prompts[:25], parameters)
    started = time.perf_counter()
    engine.generate(prompts, parameters)
    seconds = time.perf_counter() - started
    yield {
        "kind": "generations",
        "rows": len(rows),
        "seconds": seconds,
        "rows_per_second": len(rows) / seconds,
    }


CONTESTANTS: dict[str, Callable[[str, bool], Iterator[dict[str, Any]]]] = {
    "prooftune": prooftune_training("auto"),
    "trl-liger": trl_training(checkpointing=False),
    "unsloth": trl_training(checkpointing=False, unsloth=True),
    "trl-liger-checkpointing": trl_training(checkpointing=True),
    "prooftune-matmuls": prooftune_training("shared-prefix"),
    "inference": inference,
    "prooftune-sdpa": prooftune_training("sdpa"),
    "vllm": vllm_generation,
}
NEEDS = {
    "trl-liger": ("trl", "liger_kernel"),
    "trl-liger-checkpointing": ("trl", "liger_kernel"),
    "unsloth": ("unsloth", "trl"),
    "vllm": ("vllm",),
}


def _installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _print_table(results: Sequence[dict[str, Any]]) -> None:
    """The figures as a Markdown table, and which first losses disagree."""
    losses: dict[tuple[str, str], dict[str, float]] = {}
    print("| model | contestant | rows | rows/s | tokens/s | MFU | GB allocated | first loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for line in results:
        if "rows_per_second" not in line:
            continue
        shape = line.get("shape")
        kind = f"{shape[0]} tokens, {shape[1]} shared" if shape else line["kind"]
        if shape:
            key = line["model"], kind
            losses.setdefault(key, {})[line["contestant"]] = line["first_loss"]
        mfu, allocated = line.get("mfu"), line.get("peak_allocated")
        cells = [
            line["model"],
            line["contestant"],
            kind,
            f"{line['rows_per_second']:.1f}",
            f"{line['tokens_per_second']:,.0f}" if shape else "",
            f"{mfu:.0%}" if mfu else "",
            f"{allocated / 1e9:.1f}" if allocated else "",
            f"{line['first_loss']:.4f}" if shape else "",
        ]
        print(f"| {' | '.join(cells)} |")
    for (model, kind), by_name in losses.items():
        low, high = min(by_name.values()), max(by_name.values())
        if not math.isclose(low, high, rel_tol=0.01):
            print(f"first losses differ: {model}, {kind}: {by_name}")


if __name__ == "__main__":
    main()
