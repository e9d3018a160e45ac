"""The parity table of exports, as Markdown, from their export.json files.

    python benchmarks/parity.py EXPORT... [--note TEXT] > docs/parity.md

Every EXPORT is a folder that ``prooftune export`` wrote.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prooftune.exporters.build import read_record
from prooftune.exporters.card import table

HEAD = """# Parity of exports

Results of running each bundle's golden set through the exported files, as recorded by `prooftune
export` in `export.json`. Written by `benchmarks/parity.py`. [export.md](export.md) explains the
columns.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "exports",
        type=Path,
        nargs="+",
        metavar="EXPORT",
        help="folders that prooftune export wrote",
    )
    parser.add_argument("--note", default="", help="a sentence about how the figures came about")
    options = parser.parse_args(arguments)
    print(page([read_record(folder) for folder in options.exports], options.note))


def page(records: Sequence[dict[str, Any]], note: str) -> str:
    """The page: the note, and one table for each bundle, in the order given."""
    bundles: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in records:
        bundles.setdefault((record["model"], record["variant"], record["task"]), []).append(record)
    parts = [
        f"## {variant} of {model}, {task}\n\n{table(found)}\n"
        for (model, variant, task), found in bundles.items()
    ]
    return "\n".join([HEAD, *([f"{note}\n"] if note else []), *parts]).rstrip()


if __name__ == "__main__":
    main()
