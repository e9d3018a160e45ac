"""Write docs/benchmarks.md from the measured results of the benchmarks (benchmarks/measured/).

    python benchmarks/page.py

A section without results here is copied from the existing page.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from contest import MEASURED, OURS
from gpu_page import gpu_section

TARGET = Path(__file__).parent.parent / "docs" / "benchmarks.md"

_TITLES = {
    "training-bfloat16": "Instruction tuning on AG News",
    "training-bfloat16-600": "Instruction tuning on more of AG News",
    "training-bfloat16-320": "Instruction tuning on 320 rows of AG News, on a newer CPU",
    "training-bfloat16-tcmalloc": "Instruction tuning on AG News, all with tcmalloc",
    "training-float32": "Instruction tuning on AG News in float32",
    "training-float32-48-avx2": "Instruction tuning on AG News in float32, AVX2 only",
    "head": "A classification head on long Swahili articles",
    "labels-0-shot-float32": "Zero-shot label scoring in float32",
    "labels-0-shot-bfloat16": "Zero-shot label scoring in bfloat16",
    "labels-8-shot-float32": "8-shot label scoring in float32",
    "labels-8-shot-float32-avx2": "8-shot label scoring in float32, AVX2 only",
    "labels-8-shot-bfloat16": "8-shot label scoring in bfloat16",
    "generation-bfloat16": "Answering SQuAD questions in bfloat16",
    "generation-bfloat16-apart": "Answering one question per SQuAD paragraph in bfloat16",
    "generation-float32": "Answering SQuAD questions in float32",
    "estimates": "Estimates of `check` and actual cost",
    "step": "Where a training step's time goes",
    "step-int8": "Where a training step's time goes with int8 frozen weights",
}
_GPU_TITLE = "On a GPU"
_LIMITS = {
    "training-bfloat16": (
        "Prooftune's operations were recounted after these runs (4.17 TFLOP), because the counter "
        "of the time did not see compiled matmuls. Bottlenecks: in bfloat16, three quarters of a "
        "step are the matmuls of linear layers and their adapters, in compiled code; the wide "
        "ones reach 90% of the peak rate, limited by reading weights from memory (95 to 100% if "
        "they were used just before). A tenth is attention (compiled code; rows as short as these "
        "leave its blocks half empty), a twentieth pointwise operations, the rest Python (the "
        "second core idles). The first of the 10 steps takes 0.6 to 1 s longer, while the system "
        "provides memory. In int8 (`model.int8_training`) matmuls are two thirds of a step and "
        "attention is a seventh; an int8 operation counts like a 16-bit one. Runs differ by up to "
        "a third, because the machine's speed does: hours before, without compiled matmuls, "
        "Prooftune was 6.5 times as fast as trl-best and 20.4 times as fast as padded-512. The "
        "losses of the pairs are 0.380, 0.378 and 0.380, with int8 0.359, 0.363 and 0.360, those "
        "of trl-best 0.385, 0.397 and 0.392, those of padded-512 0.385, 0.395 and 0.402: 80 rows "
        "after 10 steps cannot separate them more; on 600 rows (next section) the medians are "
        "within 2%. TRL's defaults over these 160 rows, at an earlier commit: Prooftune was 6.8 "
        "times as fast, with int8 9.8 times, in 36% and 39% of the memory. One pair over 600 rows "
        "against padded-512, also earlier: 22.4 times as fast, with int8 30.7 times, with losses "
        "1.3% and 1.2% above its 0.2046. Tried without gain in bfloat16: prepacked frozen "
        "weights, prefetching the next weights, huge pages. Next: fewer calls from Python per "
        "step."
    ),
    "training-bfloat16-600": (
        "The first 600 rows, and the loss on the 300 that follow: 38 steps instead of 10. In the "
        "single pairs Prooftune's loss is 5.1% and 0.6% lower and 0.7% higher (with int8 1.1% "
        "higher, 0.6% lower and 3.0% higher); hours before, with an engine that rounds "
        "differently, the same seeds gave 0.3% higher, 1.1% and 1.0% lower: that much of the "
        "first difference is chance. Three more seeds, without TRL, gave 0.203, 0.204 and 0.203, "
        "with int8 0.219, 0.204 and 0.214. The previous engine, without compiled LoRA layers, was "
        "8.0 times as fast, with int8 10.7 times. TRL's throughput here, 106 to 117 tokens per "
        "second, is not limited by its arithmetic: in every step it requests 8 GB of memory from "
        "the system again, including arrays of rows x length x vocabulary. This took a quarter of "
        "the CPU time in a profiled training over 320 rows, and varies from hour to hour (106 to "
        "146 tokens per second in all). The next section shows the effect of another allocator. "
        "Prooftune's bottlenecks are as above."
    ),
    "training-bfloat16-320": (
        "The last of three pairs in an hour, on the successor of the CPU above (Zen 5, same "
        "features): 13.1, 13.2 and 12.3 times as fast; tests ran beside a fourth (26.7 and 150.5 "
        "s). Three pairs of the day before: 12.0, 13.8 and 13.6. Pairs differ by what TRL takes; "
        "in three earlier it took 155, 156 and 191 s (12.3 to 16.9 times, with int8 12.9). Our "
        "threads spin for some 400 microseconds before they sleep; TRL's threads spin as "
        "OpenMP's default is."
    ),
    "training-bfloat16-tcmalloc": (
        "Every tool runs with `LD_PRELOAD` of tcmalloc (gperftools 2.10), which retains freed "
        "memory. TRL gains a quarter to two thirds; Prooftune, which retains memory by itself, "
        "gains at most a twentieth. Use such an allocator to train with TRL on CPUs; neither "
        "TRL nor pip includes one. One pair, on the newer CPU of the section before; three "
        "earlier ones gave 8.0, 8.2 and 8.6 times (6.1, 5.9 and 6.5 times its best), with int8 "
        "9.2 and 6.7 times. On the older CPU, with "
        "an earlier engine, three pairs gave 5.2 to 5.7 times the speed of TRL's defaults and "
        "3.8 to 4.1 times its best, with int8 8.3 to 8.8 and 6.1 to 6.3 times."
    ),
    "training-float32": (
        "In float32 both compute the same training, as the losses show. One pair only, since that "
        "was the question."
    ),
    "training-float32-48-avx2": (
        "The CPU has AVX512; `PROOFTUNE_COMPILE=avx2 ATEN_CPU_CAPABILITY=avx2 "
        "ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` emulate one that lacks it, for "
        "both tools. The losses of each pair are equal to four digits; the "
        "pairs of three days before gave 6.0 to 8.1 times. The ratio "
        "depends on the rows: TRL pads a batch to "
        "its longest row, and trains on the first 48 rows at 1.1, on 160 at 1.4 rows/s, where "
        "one pair took 23.4 and 111.4 s (4.8 times as fast) before LoRA layers were compiled "
        "for float32. With them a step over the first 16 rows takes 2.01 and 2.09 s, without "
        "them 2.44 and 2.42 s (medians of 6 steps, alternating in one process, two runs): their "
        "matmuls run at 250 to 263 GFLOP/s, adapters included, where PyTorch's run at 218 to "
        "232 without adapters. Bottlenecks: wide matmuls, then attention, a twentieth."
    ),
    "head": (
        "Bottlenecks: in a step over rows of 1,500 tokens, two thirds are the matmuls of the "
        "linear layers, at the full rate, and a quarter is attention, in compiled code at 75 to "
        "80% of it, which saves no attention weights and recomputes them in the backward pass. "
        "With plain matmuls attention took half of the step, because it writes scores that do not "
        "fit the cache. Blocks of 64, 96 and 128 instead of 32 are no faster. The loss of three "
        "seeds is 1.98, 1.67 and 1.53 with Prooftune, and 1.98, 1.66 and 1.51 with the Trainer: "
        "after 3 steps over 12 rows this shows that both compute the same, not how much is "
        "learned. Next: int8 matmuls."
    ),
    "labels-0-shot-float32": (
        "Bottleneck: float32 matmuls. The harness computes the common prefix of the prompts for "
        "every row, and the whole prompt once more for a label of several tokens."
    ),
    "labels-0-shot-bfloat16": (
        "Bottlenecks: 60% of the time are matmuls, 29% is attention, by PyTorch's 16-bit kernel. "
        "Predictions that differ do so by rounding: in float32, above, none differs. Memory "
        "includes the prepacked weights (0.27 GB). The first pair ran beside other work. Next: "
        "the compiled attention that training uses."
    ),
    "labels-8-shot-bfloat16": (
        "Bottleneck: attention over the few-shot examples, whose 16-bit kernel reaches a third of "
        "the rate of plain matmuls here. The harness computes the examples again for every row, "
        "so the ratio rises with the number of rows: over 24 rows, hours before, it was 11.9 and "
        "14.4. Both tools were warmed up. Next: attention over a long prefix by plain matmuls, in "
        "query chunks as in training."
    ),
    "estimates": (
        "Over many batches of different sizes the C library's heap grows, because new arrays do "
        "not fit into the gaps of old ones; the few batches of an estimate do not show this. A "
        "process also retains some of the memory of earlier variants. The estimate covers both by "
        "factors that were measured on these very studies (two thirds more for inference, a fifth "
        "for training, two fifths retained), so it will be less accurate for other studies and "
        "other C libraries."
    ),
    "labels-8-shot-float32-avx2": (
        "The CPU has AVX512; `PROOFTUNE_COMPILE=avx2 ATEN_CPU_CAPABILITY=avx2 "
        "ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` emulate one that lacks it, for "
        "both tools. One pair; two of the day before gave 20.5 and 20.6 times, one "
        "without our compiled code (`PROOFTUNE_COMPILE=0`) 21.8."
    ),
    "labels-8-shot-float32": (
        "Bottleneck: float32 matmuls. The harness computes the examples again for every row. Both "
        "tools were warmed up."
    ),
    "generation-float32": ("One pair only, to see whether the predictions are the same."),
    "step": (
        "One of ten processes in a row, which gave 84.6, 86.4, 86.1, 86.2, 85.3, 85.8, 86.0, 86.4, "
        "85.8 and 86.3% (median 86.0); ten of nearly the same code before them gave 84.0 to 85.9% "
        "(median 85.4). Python between two kernels takes about twice as long as when the "
        "kernels are left out, probably because their arrays displace its own from the caches, and "
        "it varies over time by a fifth. Tried without gain: one autograd function per decoder "
        "layer; preparing all kernel calls of a layer before the first; prefetching the rows that "
        "attention packs. "
        "The matmuls of compiled attention count as operations, but are not among those that are "
        "timed alone."
    ),
    "step-int8": (
        "Quantization is not among the matmuls. An int8 operation counts like a 16-bit one, of "
        "which the CPU does half as many per second."
    ),
    "generation-bfloat16": (
        "All questions of paragraphs that are far apart, about nine on each: this is how SQuAD "
        "asks, and it favours Prooftune, which prefills a paragraph once for all of its "
        "questions; the next section has one question per paragraph. Bottleneck: half of the time "
        "goes into 23 decode steps that each read all weights for one token per row, where the "
        "overhead of calling small operators exceeds the matmuls. Predictions differ by 16-bit "
        "rounding: in float32 all are the same. Next: fewer calls per step."
    ),
    "generation-bfloat16-apart": (
        "One question of each paragraph, so that only the instruction is shared. Both tools "
        "prefill every prompt in full; Prooftune saves padding, and the computation of finished "
        "rows."
    ),
}
"""Bottlenecks of each benchmark and next steps; written by hand."""

_HEAD = """# Benchmarks

Prooftune and other tools on the same rows, with the same hyperparameters and seeds, each tool in
its own process, one after another on one machine. Ratios are medians over paired runs; above 1
Prooftune is faster. The scripts are in `benchmarks/`; their first lines state what they compare
and which packages they need (`pip install trl==1.16.0 lm-eval==0.4.13` for all).
`benchmarks/page.py` writes the tables from the measured results; the paragraphs below them are
written by hand, after profiles that are not kept. A prompt's tokens count in every row, even if a
tool computes a shared prefix once. The load before (running processes, one-minute mean) comes
mostly from the previous benchmark.

All measurements use SmolLM2-135M-Instruct (134.5 million weights), which comes with Prooftune's
demo; training uses LoRA of rank 16 on all linear layers and batches of 16 rows. An AG News prompt
has about 100 tokens, the first 50 of which are the same in every prompt. The CPU has AVX512-BF16
and no AMX, so all of Prooftune's compiled kernels ([engine.md](engine.md)) are in use, where a
section names no other CPU; CPUs with AVX2 have these in float32 too. A larger model, a shorter
shared prefix or another CPU change the ratios.

Nothing was measured on GPUs: the code for them is tested on CPUs only. `benchmarks/gpu.py` is ready
to measure it in one command of at most 8 minutes ([what it measures, and its dry run](#on-a-gpu)).

- `prooftune-int8`: `model.int8_training: true`.
- `trl-defaults`, `trl-best`: TRL's `SFTTrainer` with its defaults, and without gradient
  checkpointing and with eager attention, its fastest settings here.
- `padded-512`, `trainer`: transformers' `Trainer` over rows padded to 512 tokens, and to the
  longest of a batch.
- `lm-eval`: lm-evaluation-harness with its `hf` model.
- `generate-padded`: transformers' `generate` in padded batches of the size that was fastest in a
  first trial.
- *of peak matmul rate*: operations per second of a tool's matmuls and attention, relative to a
  matmul of two 1024 x 1024 matrices in the same dtype on this machine. In int8 the CPU does twice
  as many; `prooftune-int8` is compared with the 16-bit rate all the same, so 100% is not its
  limit.
"""


def main() -> None:
    before = _sections(TARGET.read_text("utf-8")) if TARGET.is_file() else {}
    parts = [_HEAD]
    for name, title in _TITLES.items():
        file = MEASURED / f"{name}.json"
        if file.is_file():
            result = json.loads(file.read_text("utf-8"))
            parts += [
                f"## {title}",
                "",
                *_body(name, result),
                "",
                *_limits(name),
                _where(result),
                "",
            ]
        elif title in before:
            parts += [f"## {title}", before[title], ""]
    gpu = gpu_section(MEASURED)
    if gpu is not None:
        parts += [f"## {_GPU_TITLE}", "", *gpu, ""]
    elif _GPU_TITLE in before:
        parts += [f"## {_GPU_TITLE}", before[_GPU_TITLE], ""]
    TARGET.write_text("\n".join(parts).rstrip() + "\n", "utf-8")


def _sections(page: str) -> dict[str, str]:
    """Text of each section by title."""
    return {
        title: rest.rstrip()
        for title, _, rest in (part.partition("\n") for part in page.split("\n## ")[1:])
    }


def _body(name: str, result: dict[str, Any]) -> list[str]:
    if name.startswith("step"):
        return _step(result)
    if name == "estimates":
        return _estimates(result)
    medians, ratios = result["medians"], result["ratios"]
    more = [key for key, heading in _MORE.items() if any(key in one for one in medians.values())]
    same = any("same_predictions" in one for one in ratios.values())
    others = result.get("ratios_with_settings", {})
    settings = [f"with {one.partition('-')[2]}" for one in others]
    headings = [
        "",
        "rows/s",
        *(_MORE[key] for key in more),
        "peak memory",
        "Prooftune is",
        "its memory",
        *settings,
    ]
    lines = [
        _row([*headings, *(["same predictions"] if same else [])]),
        _row(["---"] * (len(headings) + same)),
    ]
    for contestant, median in medians.items():
        ratio = ratios.get(contestant, {})
        cells = [
            contestant,
            f"{median['rows_per_second']:.2f}",
            *(
                _FORMATS.get(key, "{:.4g}").format(median[key]) if key in median else ""
                for key in more
            ),
            f"{median['peak_memory_bytes'] / 1e9:.2f} GB",
            f"{ratio['speed']:.1f}× as fast" if ratio else "",
            f"{ratio['memory']:.0%}" if ratio else "",
            *(
                f"{other[contestant]['speed']:.1f}× as fast" if ratio else ""
                for other in others.values()
            ),
        ]
        lines.append(
            _row([*cells, *([f"{ratio['same_predictions']:.1%}" if ratio else ""] if same else [])])
        )
    runs = {
        contestant: [run["rows"] / run["seconds"] for run in several]
        for contestant, several in result["runs"].items()
    }
    spread = "; ".join(
        f"{contestant} {min(v):.2f} to {max(v):.2f}" for contestant, v in runs.items()
    )
    text = (
        f"Paired runs: {len(result['runs'][OURS])}; rows/s: {spread}. {_pairs(runs)}Load "
        f"before: {result['load_before']:.1f}."
    )
    return [
        *lines,
        "",
        *textwrap.wrap(text, 128, break_on_hyphens=False),
        *_speed_at_peak(medians, ratios),
    ]


def _pairs(runs: dict[str, list[float]]) -> str:
    """Speed ratios of the single pairs."""
    ours = [contestant for contestant in runs if contestant.startswith(OURS)]
    texts = [
        f"{name} / {other} "
        f"{', '.join(f'{a / b:.1f}' for a, b in zip(runs[name], speeds, strict=True))}"
        for other, speeds in runs.items()
        if other not in ours
        for name in ours
    ]
    return f"Ratios of the pairs: {'; '.join(texts)}. "


def _speed_at_peak(medians: dict[str, Any], ratios: dict[str, Any]) -> list[str]:
    """Speed-ups if all operations ran at the peak matmul rate."""
    share = medians.get(OURS, {}).get("share_of_rate")
    if not share or not ratios:
        return []
    best = ", ".join(
        f"{ratio['speed'] / share:.1f}× as fast as {contestant}"
        for contestant, ratio in ratios.items()
    )
    return [
        "",
        *textwrap.wrap(
            "If all of its matmuls and attention ran at the peak matmul rate and nothing else took "
            f"time, Prooftune would be {best}.",
            128,
        ),
    ]


_MORE = {
    "tokens_per_second": "tokens/s",
    "held_out_loss": "held-out loss",
    "batch": "batch",
    "share_of_rate": "of peak matmul rate",
}
_FORMATS = {"share_of_rate": "{:.0%}", "held_out_loss": "{:.4f}"}


def _limits(name: str) -> list[str]:
    return [textwrap.fill(_LIMITS[name], 128), ""] if name in _LIMITS else []


def _step(result: dict[str, Any]) -> list[str]:
    kernels = ", ".join(
        f"{name} {1000 * seconds:.0f}" for name, seconds in result["other_kernels_seconds"].items()
    )
    python = 1000 * result["python_and_operators_seconds"]
    step, alone = result["step_seconds"], result["products_alone_seconds"]
    rate, peak, share = (
        result["product_rate"] / 1e12,
        result["rate_1024"] / 1e12,
        result["share_of_step"],
    )
    return [
        f"A step over {result['rows']} rows ({result['tokens']:,} tokens) takes {step:.2f} s; its "
        "matmuls alone, replayed with the same",
        f"shapes, take {alone:.2f} s: **{share:.0%}** (median of the pairs). This is "
        f"{rate:.2f} TFLOP per second of the step,",
        f"{rate / peak:.0%} of the rate of a 1024 x 1024 matmul here ({peak:.2f}).",
        "",
        f"Milliseconds of the other compiled kernels: {kernels}. PyTorch's other operators and "
        f"Python take {python:.0f}.",
    ]


def _estimates(result: dict[str, Any]) -> list[str]:
    lines = [
        _row(
            [
                "study",
                "variant",
                "estimated time",
                "actual",
                "error",
                "estimated memory",
                "peak",
                "error",
            ]
        ),
        _row(["---"] * 8),
    ]
    for one in result["variants"]:
        cells = [
            one["study"],
            one["variant"],
            f"{one['seconds']:.0f} s",
            f"{one['took_seconds']:.0f} s",
            f"{one['seconds'] / one['took_seconds'] - 1:+.0%}",
            f"{one['memory_bytes'] / 1e9:.2f} GB",
            f"{one['peak_bytes'] / 1e9:.2f} GB",
            f"{one['memory_bytes'] / one['peak_bytes'] - 1:+.0%}",
        ]
        lines.append(_row(cells))
    return lines


def _where(result: dict[str, Any]) -> str:
    machine = dict(result["machine"])
    versions = ", ".join(
        f"{name} {value}" for name, value in machine.items() if name not in ("processor", "cores")
    )
    command = f"`{result['command'].strip()}`, " if "command" in result else ""
    return (
        f"{command}{result.get('date', '')}; {machine['processor']}, {machine['cores']} cores; "
        f"{versions}."
    )


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
