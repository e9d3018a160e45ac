"""Draw docs/images/architecture.svg: the packages of Prooftune and how data flows through them.

    python docs/architecture_diagram.py

A test holds that the file is what this script writes and that every package is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

TARGET = Path(__file__).parent / "images" / "architecture.svg"
WIDTH, ROW_HEIGHT, BOX_HEIGHT, GAP, MARGIN = 860, 104, 62, 16, 12
# Colours that read on a light and on a dark page.
FILL, SHARED, TEXT, NOTE, LINE = "#3f51b5", "#5f6b7a", "#ffffff", "#d9def5", "#8a93a6"


@dataclass(frozen=True, slots=True)
class Box:
    """A package, with its left end and width in columns of 12."""

    name: str
    note: str
    column: int
    columns: int


ROWS: list[list[Box]] = [
    [
        Box("data", "readers, splits, audit", 0, 4),
        Box("retrieval", "documents, index, search", 4, 4),
        Box("recipe", "the study's options, checked", 8, 4),
    ],
    [
        Box("tasks", "prompts, labels, answers, citations", 0, 8),
        Box("models", "loading, adapters", 8, 4),
    ],
    [
        Box(
            "engine",
            "packed batches · attention · fused layers · kernels · scoring · decoding",
            0,
            12,
        )
    ],
    [
        Box("training", "objective, sampler, trainer", 0, 3),
        Box("search", "hyperparameters", 3, 2),
        Box("variants", "baselines, prompting, tuned: predictions on the same rows", 5, 7),
    ],
    [
        Box("bundle", "the model that ships", 0, 7),
        Box("evaluation", "metrics, tests, verdict", 7, 3),
        Box("judge", "scores by an LLM", 10, 2),
    ],
    [
        Box("exporters", "GGUF, vLLM", 0, 2),
        Box("serving", "HTTP", 2, 2),
        Box("batch_predict", "files of any size", 4, 2),
        Box("bundle_evaluation", "on new labelled data", 6, 3),
        Box("report", "page, tables, figures", 9, 3),
    ],
]
FLOWS = {
    "data": ["tasks"],
    "retrieval": ["tasks"],
    "recipe": ["models"],
    "tasks": ["engine"],
    "models": ["engine"],
    "engine": ["training", "variants"],
    "training": ["bundle"],
    "variants": ["evaluation", "judge"],
    "bundle": ["exporters", "serving", "batch_predict", "bundle_evaluation"],
    "evaluation": ["bundle_evaluation", "report"],
    "judge": ["report"],
}
SHARED_BOXES = [
    Box("study", "the stages", 0, 2),
    Box("preflight", "checks first", 2, 1),
    Box("cli", "commands", 3, 1),
    Box("convert", "Meta checkpoints", 4, 2),
    Box("bridges", "other tools' configs", 6, 2),
    Box("recipes", "shipped", 8, 1),
    Box("chat_client", "OpenAI API", 9, 1),
    Box("utils", "files, progress", 10, 2),
]
"""Packages outside of the flow: what drives it, and what all of it uses."""


def _span(box: Box) -> tuple[float, float]:
    unit = (WIDTH - 2 * MARGIN + GAP) / 12
    return MARGIN + box.column * unit, box.columns * unit - GAP


def _draw(box: Box, top: float, fill: str) -> str:
    left, width = _span(box)
    middle = left + width / 2
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{BOX_HEIGHT}" rx="8"'
        f' fill="{fill}"/>'
        f'<text x="{middle:.1f}" y="{top + 26:.1f}" class="name">{escape(box.name)}</text>'
        f'<text x="{middle:.1f}" y="{top + 46:.1f}" class="note">{escape(box.note)}</text>'
    )


def _arrow(first: Box, first_top: float, second: Box, second_top: float) -> str:
    """From the bottom of a box straight down to the top of one below, where they overlap."""
    (left, width), (other_left, other_width) = _span(first), _span(second)
    middle = (max(left, other_left) + min(left + width, other_left + other_width)) / 2
    return (
        f'<line x1="{middle:.1f}" y1="{first_top + BOX_HEIGHT:.1f}" x2="{middle:.1f}"'
        f' y2="{second_top - 4:.1f}" class="flow" marker-end="url(#head)"/>'
    )


def diagram() -> str:
    """The SVG as text."""
    tops = {box.name: MARGIN + row * ROW_HEIGHT for row, boxes in enumerate(ROWS) for box in boxes}
    boxes = {box.name: box for row in ROWS for box in row}
    shared_top = MARGIN + len(ROWS) * ROW_HEIGHT + 10
    height = shared_top + BOX_HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        ' aria-label="Packages of Prooftune and how data flows through them">',
        "<style>text{font-family:system-ui,sans-serif;text-anchor:middle}"
        f".name{{font-size:17px;font-weight:600;fill:{TEXT}}}.note{{font-size:12.5px;fill:{NOTE}}}"
        f".flow{{stroke:{LINE};stroke-width:2}}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="5"'
        f' markerHeight="5" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    parts += [
        _arrow(boxes[a], tops[a], boxes[b], tops[b]) for a, below in FLOWS.items() for b in below
    ]
    parts += [_draw(box, tops[name], FILL) for name, box in boxes.items()]
    parts += [_draw(box, shared_top, SHARED) for box in SHARED_BOXES]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(diagram(), encoding="utf-8")
