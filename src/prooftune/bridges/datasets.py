"""Data sets of another tool's config -> the ``data`` section of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from prooftune.bridges.foreign_config import ForeignConfig

Layout = Literal["alpaca", "conversations", "columns", "unknown"]
_DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst")


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One data set that the config names.

    Attributes:
        path: hub name, local file or folder; empty if the config does not say where it is.
        layout: ``alpaca`` (instruction, input, output), ``conversations`` (turns), ``columns``.
        source: the key and value in the config, for messages.
        split, config: split and configuration of a hub data set.
        columns: field (question, context, answer) -> column, where they differ from the layout.
    """

    path: str
    layout: Layout
    source: str
    split: str | None = None
    config: str | None = None
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The path as a recipe writes it."""
        local = (
            self.path.startswith((".", "/", "~"))
            or self.path.endswith(_DATA_SUFFIXES)
            # OWNER/NAME is a name on the hub, unless there is such a folder.
            or self.path.count("/") != 1
            or Path(self.path).exists()
        )
        return self.path if local else f"hub:{self.path}"


ALPACA_TEMPLATE = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{question}\n\n### Input:\n{context}\n\n### Response:\n"
)
"""Prompt of Stanford Alpaca, which TorchTune, Axolotl and LLaMA-Factory use for this layout."""


def set_data(
    config: ForeignConfig,
    train: Sequence[DatasetEntry],
    validation: Sequence[DatasetEntry] = (),
    test: Sequence[DatasetEntry] = (),
) -> None:
    """Write the ``data`` section and the prompt of its layout; report settings they cannot hold."""
    located = [entry for entry in train if entry.path]
    for entry in train:
        if not entry.path:
            config.to_do.append(f"{entry.source}: name its file in data.train")
    if not located:
        config.recipe.setdefault("data", {})["train"] = "train.jsonl"
        config.to_do.append("data.train: put your file in place of train.jsonl")
        return
    first = located[0]
    data = config.recipe.setdefault("data", {})
    same = [e for e in located if (e.layout, e.columns) == (first.layout, first.columns)]
    for entry in located:
        if entry not in same:
            config.drop(entry.source, f"its layout differs from that of {first.path}")
        elif entry.layout == "unknown":
            config.to_do.append(f"{entry.source}: name its columns in data.text and data.label")
    _set_source(config, "train", same)
    for name, entries in (("validation", validation), ("test", test)):
        if entries:
            _set_source(config, name, entries)
    columns = dict(first.columns)
    if first.layout == "alpaca":
        columns = {"question": "instruction", "context": "input", "answer": "output", **columns}
    if columns:
        data["label"] = columns.pop("answer")
        data["text"] = columns
    # The user's message as it is in the data; recipes would put an instruction before it.
    template = "{question}\n{context}" if "context" in columns else "{question}"
    config.recipe.setdefault("prompt", {}).setdefault("template", template)


def _set_source(config: ForeignConfig, name: str, entries: Sequence[DatasetEntry]) -> None:
    first = entries[0]
    paths = list(dict.fromkeys(entry.reference for entry in entries))
    options: dict[str, object] = {"path": paths[0] if len(paths) == 1 else paths}
    if first.split is not None:
        options["split"] = first.split
    # "default" is the hub's name of the only configuration.
    if first.config not in (None, "default"):
        options["config"] = first.config
    for entry in entries[1:]:
        if (entry.split, entry.config) != (first.split, first.config):
            config.drop(entry.source, f"the files of data.{name} share one split and config")
    value = options["path"] if len(options) == 1 else options
    config.set(f"data.{name}", value, ", ".join(entry.source for entry in entries))
