"""What ``init`` was told, and what it found out about a data file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class InitChoices:
    """What the user named instead of having it detected; None for the rest.

    Attributes:
        text: input columns.
        label: label or answer column.
        task, format, encoding, group: values of the recipe's keys.
    """

    text: list[str] | None = None
    label: str | None = None
    task: str | None = None
    format: str | None = None
    encoding: str | None = None
    group: str | None = None


@dataclass(slots=True)
class InferredOptions:
    """Options of the recipe's ``data`` section, with the evidence for each.

    Attributes:
        options: option -> value.
        notes: a sentence for each thing detected.
        comments: option -> comment in the recipe.
        splits: split -> its name in a folder of shards or a JSON file.
        several_labels: whether a text has several labels (``task: multilabel``).
        split_folders: split -> its folder, which has one folder per label.
        class_names: column -> names of its numbers 0, 1, … that the file itself gives.
        class_names_from: the file beside the data that gives them; empty for the data itself.
        named: whether the columns' names come from the file.
        repeated: names that the file has for several columns.
        merged_labels: label -> spelling of it that merges all, for a comment in the recipe; empty
            where no labels differ in their spelling only.
    """

    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    several_labels: bool = False
    split_folders: dict[str, str] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    class_names_from: str = ""
    named: bool = True
    repeated: tuple[str, ...] = ()
    merged_labels: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: object, sentence: str) -> None:
        self.options[name] = value
        self.notes.append(sentence)
