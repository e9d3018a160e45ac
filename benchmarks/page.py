"""Write docs/benchmarks.md from what the benchmarks against other tools have measured
(benchmarks/measured/).

    python benchmarks/page.py

A section that was measured elsewhere or before stays as it is.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from contest import MEASURED, OURS

TARGET = Path(__file__).parent.parent / "docs" / "benchmarks.md"

_TITLES = {
    "training-bfloat16": "Instruction tuning on AG News",
    "training-bfloat16-600": "Instruction tuning on more of AG News",
    "training-bfloat16-tcmalloc": "Instruction tuning on AG News, all with tcmalloc",
    "training-float32": "Instruction tuning on AG News in float32",
    "head": "A classification head on long Swahili articles",
    "labels-0-shot-float32": "Zero-shot label scoring in float32",
    "labels-0-shot-bfloat16": "Zero-shot label scoring in bfloat16",
    "labels-8-shot-float32": "8-shot label scoring in float32",
    "labels-8-shot-bfloat16": "8-shot label scoring in bfloat16",
    "generation-bfloat16": "Answering SQuAD's questions in bfloat16",
    "generation-bfloat16-apart": "Answering one question of each of SQuAD's paragraphs in bfloat16",
    "generation-float32": "Answering SQuAD's questions in float32",
    "estimates": "Estimates of `check` against what a run took",
    "step": "Where a training step's time goes",
    "step-int8": "Where it goes with frozen weights in int8",
}
_LIMITS = {
    "training-bfloat16": (
        "Prooftune's operations were counted anew after these runs (4.17 TFLOP), whose counter "
        "did not see compiled products. "
        "What limits it: in bfloat16, of a step three quarters are the products of layers and "
        "their adapters, in compiled code: "
        "the wide ones reach 90% of the rate, since their weights come from memory (95 to 100% "
        "where those were used just "
        "before). A tenth is attention (compiled code; rows as short as these leave its blocks "
        "half empty), a twentieth what "
        "stands between, the rest Python (the second core waits). The first of the 10 steps takes "
        "0.6 to 1 s more, "
        "until the system has given its memory. In int8 (`model.int8_training`) the products are "
        "two thirds of a step, a "
        "seventh is attention; an operation in 8 bits counts as one in 16. Runs differ by up to a "
        "third, as the machine's speed "
        "does: hours before, without compiled products, Prooftune was 6.5 times as fast as "
        "trl-best and 20.4 times as "
        "padded-512. The losses of the pairs are 0.380, 0.378 and 0.380, with int8 0.359, 0.363 "
        "and 0.360, trl-best's 0.385, "
        "0.397 and 0.392, padded-512's 0.385, 0.395 and 0.402: 80 rows after 10 steps tell no "
        "more apart; of 600 rows, next "
        "section, the medians are within 2%. TRL's defaults over these 160 rows, at an earlier "
        "commit: Prooftune 6.8 times as "
        "fast, with int8 9.8 times, in 36% and 39% of its memory. One pair over 600 rows against "
        "padded-512, earlier too: 22.4 "
        "and, with int8, 30.7 times as fast, the losses 1.3% and 1.2% above its 0.2046. Tried "
        "without gain in bfloat16: frozen "
        "weights laid out once; fetching the next weights ahead; large pages. Next: fewer calls "
        "from Python in a step."
    ),
    "training-bfloat16-600": (
        "The first 600 rows, and the loss on the 300 that follow: 38 steps instead of 10. In the "
        "single pairs Prooftune's loss "
        "is 5.1% and 0.6% lower and 0.7% higher (with int8 1.1% higher, 0.6% lower and 3.0% "
        "higher); hours before, by an engine "
        "that rounds elsewhere, the same seeds gave 0.3% higher, 1.1% and 1.0% lower: so much of "
        "the first is chance. Three "
        "more seeds, without TRL, gave 0.203, 0.204 and 0.203, with int8 0.219, 0.204 and 0.214. "
        "The engine before, without "
        "compiled products of layers with adapters, was 8.0 times as fast, with int8 10.7 times. "
        "TRL's rate here, 106 to 117 "
        "tokens a second, is not that of its arithmetic: in every step it asks the system for 8 "
        "GB of memory anew, arrays of "
        "rows x length x vocabulary among them, which took a quarter of the processors' time in a "
        "training over 320 rows that "
        "was looked into, and how long that takes differs from hour to hour (106 to 146 tokens a "
        "second in all). The next "
        "section has what another allocator makes of it. What limits Prooftune is as above."
    ),
    "training-bfloat16-tcmalloc": (
        "Every contestant with `LD_PRELOAD` of tcmalloc (gperftools 2.10), which keeps what is "
        "freed, before the same command. "
        "TRL gains a quarter to two thirds, Prooftune, which keeps it by itself, nothing, with "
        "int8 a twentieth. Who trains with "
        "TRL on CPUs should use such an allocator; neither TRL nor pip brings one."
    ),
    "training-float32": (
        "In float32 both compute the same training, which the losses show. One pair alone, since "
        "that was the question."
    ),
    "head": (
        "What limits it: of a step over rows of 1,500 tokens two thirds are the products of its "
        "layers, at the full rate, and a "
        "quarter attention, by compiled code at 75 to 80% of it, which keeps no weights and "
        "computes them again in the backward "
        "pass. By plain products attention took half of the step: these write scores that do not "
        "stay in the cache. Blocks of 64, "
        "96 and 128 instead of 32 are no faster. The loss of three seeds is 1.98, 1.67 and 1.53 "
        "with Prooftune, 1.98, 1.66 and "
        "1.51 with the Trainer: after 3 steps over 12 rows it shows that both do the same, not "
        "what is learned. Next: the "
        "products, by int8."
    ),
    "labels-0-shot-float32": (
        "What limits it: products in float32. The harness computes the common beginning of the "
        "prompts for every row, and the "
        "whole prompt once more for a label of several tokens."
    ),
    "labels-0-shot-bfloat16": (
        "What limits it: of its time 60% are products, 29% attention, by PyTorch's 16-bit kernel. "
        "Where predictions differ, it is "
        "by rounding: in float32, above, none does. Its memory has the weights once more, laid "
        "out for their products (0.27 GB). "
        "The first pair ran beside other work. Next: attention by the compiled code that training "
        "has."
    ),
    "labels-8-shot-bfloat16": (
        "What limits it: attention over the examples, whose 16-bit kernel reaches a third of the "
        "rate of plain products here. The "
        "harness computes the examples again for every row, so that more rows raise the ratio: "
        "over 24 rows, hours before, "
        "it was 11.9 and 14.4. Both have had a first try before. Next: attention over a long "
        "prefix as plain products, a piece "
        "at a time, as training has it."
    ),
    "estimates": (
        "Over many batches of different sizes the heap of the C library grows, because an array "
        "does not fit where "
        "another was, which the few batches of an estimate do not show; and a process keeps some "
        "of what earlier variants "
        "needed. Both are counted by factors that were measured on these very studies (two thirds "
        "more where rows are "
        "asked, a fifth where they are learned, two fifths kept), so that other studies and other "
        "C libraries will be met "
        "less well."
    ),
    "labels-8-shot-float32": (
        "What limits it: products in float32. The harness computes the examples again for every "
        "row. Both have had a first try "
        "before."
    ),
    "generation-float32": "One pair alone, to see whether the predictions are the same.",
    "step": (
        "Attention's products, which are compiled code, count as operations, but not among "
        "those that are timed alone."
    ),
    "step-int8": (
        "Rounding to bytes is not among the products. An operation in 8 bits counts as one in 16, "
        "of which the processor does half "
        "as many."
    ),
    "generation-bfloat16": (
        "All questions of paragraphs that lie far apart, about nine on each: as SQuAD asks, and "
        "in Prooftune's favour, which reads "
        "a paragraph once for all of its questions; the next section has one question of each. "
        "What limits it: half of the time "
        "goes into 23 steps that each read all weights for one token a row, where the calls of "
        "small operators weigh more than "
        "the products. Predictions differ by 16-bit rounding: in float32 all are the same. Next: "
        "fewer calls in a step."
    ),
    "generation-bfloat16-apart": (
        "One question of each paragraph, so that nothing but the instruction is shared. Both read "
        "every prompt whole, and what "
        "Prooftune leaves out is padding, and rows that have ended."
    ),
}
"""By what each is limited now, and what comes next; written by hand."""

_HEAD = """# Benchmarks

Prooftune beside other tools on the same rows, with the same hyperparameters and seeds, every contestant in a process of its own,
in turn, on one machine. Ratios are medians over paired runs; above 1 Prooftune is faster. `benchmarks/` has the scripts, whose
first lines say what is compared with what, and which packages they need (`pip install trl==1.16.0 lm-eval==0.4.13` for all). The
tables are written by `benchmarks/page.py` from what the scripts measured; the paragraphs under them are written by hand, after
profiles that are not kept. A prompt's tokens count in every row, also where a tool computes what rows share once. The load before
(processes that ran, a mean of a minute) is mostly that of the benchmark before.

All is measured with SmolLM2-135M-Instruct (134.5 million weights), which comes with Prooftune's demo; trainings have LoRA of rank
16 on all linear layers and batches of 16 rows. An AG News prompt has about 100 tokens, of which 50 begin every prompt. The
processor has AVX512-BF16 and no AMX, and Prooftune's compiled code ([engine.md](engine.md)) is in use, which other processors do
without. A larger model, a smaller shared beginning or another processor change the ratios.

On GPUs nothing was measured: what runs there is tested on CPUs alone. The scripts take a GPU where they find one.

- `prooftune-int8`: `model.int8_training: true`.
- `trl-defaults`, `trl-best`: TRL's `SFTTrainer` as it is, and without gradient checkpointing and with eager attention, its fastest
  settings here.
- `padded-512`, `trainer`: transformers' `Trainer` over rows padded to 512 tokens, and to the longest of a batch.
- `lm-eval`: lm-evaluation-harness with its `hf` model.
- `generate-padded`: transformers' `generate` in padded batches of the size that was fastest in a first try.
- *of the rate of products*: the operations of a contestant's matrix products and attention per second, as a share of what a product
  of two 1024 x 1024 matrices in the same dtype reaches on this machine. In 8 bits the processor does twice as many; for
  `prooftune-int8` they are compared with the rate in 16 bits all the same, so that 100% is no limit.
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
    TARGET.write_text("\n".join(parts).rstrip() + "\n", "utf-8")


def _sections(page: str) -> dict[str, str]:
    """What stands under each title."""
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
    for contestant, one in medians.items():
        ratio = ratios.get(contestant, {})
        cells = [
            contestant,
            f"{one['rows_per_second']:.2f}",
            *(_SHOWN.get(key, "{:.4g}").format(one[key]) if key in one else "" for key in more),
            f"{one['peak_memory_bytes'] / 1e9:.2f} GB",
            f"{ratio['speed']:.1f}× as fast" if ratio else "",
            f"{ratio['memory']:.0%}" if ratio else "",
            *(
                f"{one[contestant]['speed']:.1f}× as fast" if ratio else ""
                for one in others.values()
            ),
        ]
        lines.append(
            _row([*cells, *([f"{ratio['same_predictions']:.1%}" if ratio else ""] if same else [])])
        )
    runs = {
        contestant: [one["rows"] / one["seconds"] for one in several]
        for contestant, several in result["runs"].items()
    }
    spread = "; ".join(
        f"{contestant} {min(v):.2f} to {max(v):.2f}" for contestant, v in runs.items()
    )
    said = (
        f"Paired runs: {len(result['runs'][OURS])}; rows/s: {spread}. {_pairs(runs)}Load "
        f"before: {result['load_before']:.1f}."
    )
    return [*lines, "", *textwrap.wrap(said, 128, break_on_hyphens=False), *_most(medians, ratios)]


def _pairs(runs: dict[str, list[float]]) -> str:
    """The ratios of the single pairs."""
    ours = [name for name in runs if name.startswith(OURS)]
    told = [
        f"{one} / {other} "
        f"{', '.join(f'{a / b:.1f}' for a, b in zip(runs[one], speeds, strict=True))}"
        for other, speeds in runs.items()
        if other not in ours
        for one in ours
    ]
    return f"Ratios of the pairs: {'; '.join(told)}. "


def _most(medians: dict[str, Any], ratios: dict[str, Any]) -> list[str]:
    """What there would be to gain by doing the same arithmetic at the rate of a product, and
    nothing else."""
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
            "If its products and its attention went at the rate of a product of 1024 x 1024, and "
            "nothing else "
            f"took time, Prooftune would be {best}.",
            128,
        ),
    ]


_MORE = {
    "tokens_per_second": "tokens/s",
    "held_out_loss": "loss on other rows",
    "batch": "batch",
    "share_of_rate": "of the rate of products",
}
_SHOWN = {"share_of_rate": "{:.0%}", "held_out_loss": "{:.4f}"}


def _limits(name: str) -> list[str]:
    return [textwrap.fill(_LIMITS[name], 128), ""] if name in _LIMITS else []


def _step(result: dict[str, Any]) -> list[str]:
    others = result["other_operators_seconds"].items()
    rest = ", ".join(f"{name.removeprefix('aten::')} {seconds:.2f} s" for name, seconds in others)
    step, alone = result["step_seconds"], result["products_alone_seconds"]
    rate, most, share = (
        result["product_rate"] / 1e12,
        result["rate_1024"] / 1e12,
        result["share_of_step"],
    )
    return [
        f"A step over {result['rows']} rows ({result['tokens']:,} tokens) takes {step:.2f} s; its "
        "matrix products alone, at",
        f"the same shapes, {alone:.2f} s: **{share:.0%}** (the median of pairs). They are "
        f"{rate:.2f} TFLOP per second of the",
        f"step, {rate / most:.0%} of the rate of a product of 1024 x 1024 here ({most:.2f}).",
        "",
        f"The rest, by the profiler: {rest}.",
    ]


def _estimates(result: dict[str, Any]) -> list[str]:
    lines = [
        _row(
            [
                "study",
                "variant",
                "time estimated",
                "took",
                "error",
                "memory estimated",
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
