"""From facts to what the page shows: order, colours, figures. Parts without facts are None and left out."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from prooftune.report import figures
from prooftune.report.cautions import cautions
from prooftune.report.svg import Range, ticks

SERIES = {"tuned": ("s0", "s1"), "zero-shot": ("s2",), "few-shot": ("s3",), "prompted": ("s4",), "tfidf": ("s5",),
          "majority": ("s6",)}
SPARE = ("s7", "s8", "s9")
LARGEST_MATRIX = 16
"""With more labels than this, confusion is shown as the list of the most frequent mistakes."""
MOST_CLASSES = 40
KIND_NAMES = {"majority": "majority class", "tfidf": "TF-IDF + logistic regression", "zero-shot": "zero-shot prompt",
              "few-shot": "few-shot prompt", "prompted": "best of several prompts", "tuned": "fine-tuned"}


def view(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page template names.

    Args:
        facts: see `build.build`.
    """
    scores = facts["scores"]
    colours = colour_classes({name: v["kind"] for name, v in scores["variants"].items()})
    told = facts.get("variants") or {}
    return {
        "facts": facts, "name": facts["name"], "scores": scores, "verdict": scores["verdict"], "colours": colours,
        "kind_names": KIND_NAMES,
        "headline_figures": headline_figures(scores),
        "cautions": cautions(facts),
        "variants": variant_rows(scores, told, colours),
        "variant_axis": figures.whisker_axis(accuracy_scale(scores)),
        "comparisons": comparison_rows(scores),
        "comparison_axis": figures.whisker_axis(difference_scale(scores), in_points=True),
        "classes": classes(scores, colours),
        "confusions": confusions(scores, colours),
        "reliability": reliability(scores),
        "abstention": [{"name": n, **v["abstention"]} for n, v in scores["variants"].items() if v.get("abstention")],
        "risk": risk(scores, colours),
        "training": [training(name, v) for name, v in told.items() if v.get("training") or v.get("changes")
                     or v.get("forgetting")],
        "prompts": {name: v for name, v in told.items() if v.get("prompt") or v.get("prompts_tried")},
        "costs": {name: v["cost"] for name, v in told.items() if v.get("cost")},
        "audit": facts.get("audit"), "notes": facts.get("notes") or [], "environment": facts.get("environment"),
        "estimates": facts.get("estimates") or {}, "recipe": facts.get("recipe"), "created": facts.get("created"),
        "version": facts.get("prooftune_version"), "seed": facts.get("seed", scores.get("seed")),
    }


def colour_classes(kinds: Mapping[str, str]) -> dict[str, str]:
    """One colour class for each variant, the same in every figure; kinds keep theirs between studies."""
    used: set[str] = set()
    result = {}
    for name, kind in kinds.items():
        free = [c for c in (*SERIES.get(kind, ()), *SPARE) if c not in used]
        result[name] = free[0] if free else "s9"
        used.add(result[name])
    return result


def headline_figures(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures under the verdict: best tuned variant, the baseline, and what lies between them."""
    verdict = scores["verdict"]
    best, baseline = verdict.get("best_tuned"), verdict.get("baseline")
    if best is None:
        return None
    against = next((a for a in verdict["against"] if a["variant"] == baseline), None)
    accuracy = {name: scores["variants"][name]["metrics"]["accuracy"] for name in (best, baseline) if name}
    return {"best": best, "baseline": baseline, "accuracy": accuracy, "against": against,
            "changed": scores.get("changed")}


def accuracy_scale(scores: Mapping[str, Any]) -> Range:
    found = [v["metrics"]["accuracy"] for v in scores["variants"].values()]
    marks = ticks(min(f["low"] for f in found), max(f["high"] for f in found), 4)
    return max(0.0, marks[0]), min(1.0, marks[-1])


def difference_scale(scores: Mapping[str, Any]) -> Range:
    found = [c["accuracy"] for c in scores["comparisons"]]
    marks = ticks(min([0.0, *(f["low"] for f in found)]), max([0.01, *(f["high"] for f in found)]), 4)
    return marks[0], marks[-1]


def variant_rows(scores: Mapping[str, Any], told: Mapping[str, Any], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table of variants, the most accurate first."""
    scale = accuracy_scale(scores)
    rows = []
    for name, variant in scores["variants"].items():
        metrics = variant["metrics"]
        calibration = variant.get("calibration") or {}
        label = f"accuracy {metrics['accuracy']['value']:.1%}"
        rows.append({
            "name": name, "kind": variant["kind"], "metrics": metrics, "colour": colours[name],
            "description": told.get(name, {}).get("description") or KIND_NAMES.get(variant["kind"], variant["kind"]),
            "ece": calibration.get("ece", {}), "log_loss": calibration.get("log_loss", {}),
            "temperature": variant.get("temperature"), "invalid": variant.get("invalid", 0),
            "truncated": variant.get("truncated", 0),
            "whisker": figures.whisker(metrics["accuracy"], scale, colours[name], label)})
    return sorted(rows, key=lambda row: -row["metrics"]["accuracy"]["value"])


def comparison_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    scale = difference_scale(scores)
    rows = []
    for c in scores["comparisons"]:
        value = c["accuracy"]["value"]
        outcome = "no clear difference" if not c["significant"] else "better" if value > 0 else "worse"
        colour = {"better": "good", "worse": "bad"}.get(outcome, "open")
        label = f"{c['a']} minus {c['b']}: {100 * value:+.1f} points"
        rows.append({**c, "outcome": outcome, "colour": colour,
                     "whisker": figures.whisker(c["accuracy"], scale, colour, label, zero=True)})
    return rows


def classes(scores: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """F1 of every label and variant as a table, and two variants of interest as a figure."""
    verdict = scores["verdict"]
    after = verdict.get("best_tuned") or verdict["winner"]
    others = [verdict.get("baseline"), *(a["variant"] for a in verdict["against"]), after]
    before = next((name for name in others if name and name != after), None)
    by_variant = {name: v["per_class"] for name, v in scores["variants"].items()}
    largest = sorted(range(len(scores["labels"])), key=lambda i: -by_variant[after][i]["support"])[:MOST_CLASSES]
    figure = None
    if before is not None:
        pair = [[by_variant[name][i] for i in sorted(largest)] for name in (before, after)]
        figure = figures.per_class(pair[0], pair[1], (before, after), (colours[before], colours[after]))
    return {"after": after, "before": before, "figure": figure, "detail": by_variant[after],
            "left_out": len(scores["labels"]) - len(largest),
            "table": [{"label": label, "support": by_variant[after][i]["support"],
                       "f1": {name: rows[i]["f1"] for name, rows in by_variant.items()}}
                      for i, label in enumerate(scores["labels"])]}


def confusions(scores: Mapping[str, Any], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    """Confusion matrices with each cell's share of its row; those of the verdict's variants come first."""
    verdict = scores["verdict"]
    first = [name for name in (verdict.get("best_tuned") or verdict["winner"], verdict.get("baseline")) if name]
    order = list(dict.fromkeys([*first, *scores["variants"]]))
    shown = []
    for name in order:
        table = scores["variants"][name]["confusion"]
        rows = [{"label": label, "total": sum(counts), "cells": [
            {"n": n, "column": column, "share": n / sum(counts) if sum(counts) else 0, "right": column == label}
            for column, n in zip(table["columns"], counts, strict=True)]}
            for label, counts in zip(table["rows"], table["counts"], strict=True)]
        mistakes = sorted(((cell["n"], row["label"], cell["column"]) for row in rows for cell in row["cells"]
                           if not cell["right"] and cell["n"]), key=lambda m: -m[0])[:15]
        shown.append({"name": name, "colour": colours[name], "columns": table["columns"], "rows": rows,
                      "mistakes": mistakes, "as_table": len(rows) <= LARGEST_MATRIX, "open": name in first,
                      "upright": len(rows) > 5 or max(map(len, table["columns"])) > 9})
    return shown


def reliability(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    shown = []
    for name, variant in scores["variants"].items():
        found = variant.get("calibration")
        if found and variant["kind"] != "majority":
            points = found["reliability"]
            shown.append({"name": name, "kind": variant["kind"], "temperature": variant.get("temperature"),
                          "ece": found["ece"], "validation_n": found.get("validation_n"),
                          "figure": figures.reliability(points["before"], points.get("after"), name)})
    return sorted(shown, key=lambda row: row["kind"] != "tuned")


def risk(scores: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any] | None:
    found = [(name, colours[name], v["risk_coverage"]) for name, v in scores["variants"].items()
             if v.get("risk_coverage") and v["kind"] != "majority"]
    if not found:
        return None
    return {"figure": figures.risk_coverage([(n, c, r["points"]) for n, c, r in found], scores.get("target_accuracy")),
            "legend": [(name, colour, curve["aurc"]) for name, colour, curve in found]}


def training(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Learning curves, weight change and forgetting of one tuned variant."""
    run = told.get("training") or {}
    history = [entry for entry in run.get("log_history") or [] if entry.get("step") is not None]
    train = [(e["step"], e["loss"]) for e in history if e.get("loss") is not None]
    validation = [(e["step"], e["eval_loss"]) for e in history if e.get("eval_loss") is not None]
    changes = told.get("changes") or {}
    return {
        "name": name, "run": run, "forgetting": told.get("forgetting"), "changes": changes or None,
        "curves": figures.learning(train, validation, name) if len(train) + len(validation) > 1 else None,
        "best": min(validation, key=lambda point: point[1]) if validation else None,
        "has_train": bool(train), "layers": layers(changes.get("layers") or [], name),
    }


def layers(entries: list[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
    """The grid of weight changes, and each kind of matrix in one line."""
    if not entries:
        return None
    grid: dict[tuple[str, int], Mapping[str, Any]] = {}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        parts = str(entry["name"]).split(".")
        number = next((int(p) for p in parts if p.isdigit()), None)
        groups.setdefault(parts[-1], []).append(entry)
        if number is not None:
            grid[parts[-1], number] = entry
    rows = [row for row in groups if any(row == key for key, _ in grid)]
    depth = 1 + max((layer for _, layer in grid), default=0)
    summary = [{"row": row, "n": len(group), "median": median(e["relative_change"] for e in group),
                "largest": max(group, key=lambda e: e["relative_change"]),
                "rank": median(e.get("effective_rank") or 0 for e in group), "full": group[0].get("rank")}
               for row, group in groups.items()]
    return {"figure": figures.layers(grid, rows, depth, name) if depth > 1 else None, "summary": summary}
