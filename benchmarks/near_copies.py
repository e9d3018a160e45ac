"""Precision and recall of near-duplicate detection in short texts, at every threshold.

    python benchmarks/near_copies.py --titles ag_news_csv/test.csv --phrases glue_phrases
        # writes the table into docs/statistics.md and the picture beside it

Recall: copies of 5 to 20 words are made from AG News titles and SST-2 sentences by one change each.
Precision: all pairs of AG News titles at 0.5 or above were read. Pairs of a test sentence of SST-2
and a training phrase come from different film reviews, so each is counted as wrong.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from prooftune.data.audit.duplicates import SHINGLINGS
from prooftune.data.audit.lsh import jaccard
from prooftune.data.normalization import near_key, word_shingles
from prooftune.types import Example

DOC = Path(__file__).parents[1] / "docs" / "statistics.md"
PICTURE = DOC.parent / "images" / "near_copies.svg"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
COPIES = 1500

# Rows of AG News' test.csv, counted from 0, whose titles are alike without one being a copy of the
# other: other teams, other days, other companies, or another statement about the same event.
NOT_COPIES = {
    (1487, 1870), (2304, 4279), (2388, 2511), (6733, 7195), (4082, 6873), (3528, 3565),
    (5492, 7330), (6636, 7464), (5376, 7306), (2631, 6528), (473, 496), (2733, 3921),
    (1515, 3154), (1515, 3046), (3440, 3662), (194, 4148), (2194, 2286), (120, 3634),
    (6564, 6942), (2811, 6808), (1753, 2044), (3485, 3516), (4750, 7405), (1366, 1373),
    (6564, 6935), (4026, 4158), (3633, 6935), (5658, 6148),
}  # fmt: skip

Words = list[str]
Shingles = Callable[[str], frozenset[str]]


def key(text: str) -> str:
    """The key by which the audit compares a text."""
    return near_key(Example("", {"text": text}, ""))


def similarity(first: str, second: str) -> float:
    """The similarity that the audit compares with its threshold: the largest of all n-grams that
    apply to both keys."""
    return max(
        (
            jaccard(s.shingles(first), s.shingles(second))
            for s in SHINGLINGS
            if s.applies(first) and s.applies(second)
        ),
        default=0.0,
    )


def word_similarity(first: str, second: str) -> float:
    """Similarity of word 3-grams alone, however short the texts are."""
    return jaccard(word_shingles(first), word_shingles(second))


def changes(words: Sequence[str], vocabulary: Sequence[str], draw: random.Random) -> dict[str, str]:
    """Copies of a text with one change each, by name of the change."""
    i, new = draw.randrange(len(words)), draw.choice(vocabulary)
    before, word, after = list(words[:i]), words[i], list(words[i + 1 :])
    j = draw.randrange(len(word))
    typo = word[:j] + draw.choice("abcdefghijklmnopqrstuvwxyz") + word[j + 1 :]
    text = " ".join(words)
    copies: dict[str, str | Words] = {
        "a link is added": f"{text} https://t.co/{draw.randrange(10**6)}",
        "`RT @name:` is added": f"RT @user{draw.randrange(1000)}: {text}",
        "capitals and punctuation": f"{text.upper()} !!",
        "an accent is added": text.translate(str.maketrans("aeo", "áéö")),
        "a typo": [*before, typo, *after],
        "a word is added": [*before, new, word, *after],
        "a word is removed": [*before, *after],
        "a word is replaced": [*before, new, *after],
        "two words are cut at the end": list(words[:-2]),
    }
    return {name: c if isinstance(c, str) else " ".join(c) for name, c in copies.items()}


def pairs_above(
    first: Sequence[str], second: Sequence[str], least: float
) -> dict[tuple[int, int], float]:
    """All pairs of keys with a `similarity` of at least that, by a product of sparse matrices."""
    found: dict[tuple[int, int], float] = {}
    for shingling in SHINGLINGS:
        vocabulary: dict[str, int] = {}
        tables = []
        for keys in (first, second):
            sets = [shingling.shingles(k) if shingling.applies(k) else () for k in keys]
            columns = [vocabulary.setdefault(s, len(vocabulary)) for one in sets for s in one]
            ends = np.cumsum([0, *map(len, sets)])
            tables.append((np.ones(len(columns), np.float32), columns, ends))
        a, b = (
            sp.csr_matrix(table, shape=(len(table[2]) - 1, len(vocabulary))) for table in tables
        )
        sizes, transposed = (np.diff(tables[0][2]), np.diff(tables[1][2])), b.T.tocsr()
        for start in range(0, len(first), 500):
            shared = (a[start : start + 500] @ transposed).tocoo()
            rows = start + shared.row
            alike = shared.data / (sizes[0][rows] + sizes[1][shared.col] - shared.data)
            for i in np.flatnonzero(alike >= least):
                pair = int(rows[i]), int(shared.col[i])
                if first[pair[0]] != second[pair[1]]:
                    found[pair] = max(float(alike[i]), found.get(pair, 0.0))
    return found


def recall(keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Similarities of originals and copies by change: as the audit compares them, and by word
    3-grams alone."""
    draw = random.Random(0)
    originals = [k for k in keys if 5 <= len(k.split()) <= 20]
    draw.shuffle(originals)
    vocabulary = [word for k in originals for word in k.split()]
    found: dict[str, list[tuple[float, float]]] = {}
    for original in originals[:COPIES]:
        for name, copy in changes(original.split(), vocabulary, draw).items():
            both = similarity(original, key(copy)), word_similarity(original, key(copy))
            found.setdefault(name, []).append(both)
    return {name: tuple(np.array(values).T) for name, values in found.items()}  # type: ignore[misc]


def table(
    copies: dict[str, tuple[np.ndarray, np.ndarray]],
    titles: dict[tuple[int, int], float],
    phrases: dict[tuple[int, int], float],
) -> str:
    """The Markdown table of docs/statistics.md."""
    heads = " | ".join(f"at {t:g}" for t in THRESHOLDS)
    lines = [
        f"| | {heads} | word 3-grams alone, at 0.9 |",
        "|---|" + "---:|" * (len(THRESHOLDS) + 1),
    ]
    for name, (audited, words) in copies.items():
        shares = " | ".join(f"{np.mean(audited >= t):.0%}" for t in THRESHOLDS)
        lines.append(f"| {name} | {shares} | {np.mean(words >= 0.9):.0%} |")
    counts = {t: [pair not in NOT_COPIES for pair, s in titles.items() if s >= t]
              for t in THRESHOLDS}  # fmt: skip
    lines.append(
        "| pairs of AG News titles, of which copies | "
        + " | ".join(f"{len(c)}, {np.mean(c):.0%}" for c in counts.values())
        + " | |"
    )
    lines.append(
        "| SST-2: wrong pairs of 872 test sentences and 60,614 phrases | "
        + " | ".join(str(sum(s >= t for s in phrases.values())) for t in THRESHOLDS)
        + " | |"
    )
    return "\n".join(lines)


def picture(curves: dict[str, np.ndarray], thresholds: np.ndarray) -> str:
    """An SVG of shares [0, 1] by threshold."""
    width, height, left, top = 460, 260, 44, 14
    colours = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#555555")

    def at(x: float, y: float) -> tuple[float, float]:
        low, high = thresholds[0], thresholds[-1]
        return left + (x - low) / (high - low) * width, top + (1 - y) * height

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 250} {height + 60}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = at(thresholds[0], share)
        parts.append(f'<path d="M{x:.0f} {y:.0f}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>')
    for threshold in np.arange(0.5, 0.91, 0.1):
        x, y = at(float(threshold), 0)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{threshold:.1f}'
                     "</text>")  # fmt: skip
    parts.append(f'<text x="{left + width / 2:.0f}" y="{height + 50}" text-anchor="middle">'
                 "audit.near_duplicates</text>")  # fmt: skip
    for i, ((name, values), colour) in enumerate(zip(curves.items(), colours, strict=False)):
        points = " ".join(
            "{:.1f},{:.1f}".format(*at(float(x), float(y)))
            for x, y in zip(thresholds, values, strict=True)
        )
        dashes = ' stroke-dasharray="5 4"' if name.startswith("precision") else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                     f'stroke-width="2"{dashes}/>')  # fmt: skip
        parts.append(f'<text x="{left + width + 12}" y="{top + 20 + 20 * i}" fill="{colour}">'
                     f"{name}</text>")  # fmt: skip
    return "\n".join([*parts, "</svg>\n"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--titles", type=Path, required=True, help="test.csv of AG News")
    parser.add_argument("--phrases", type=Path, required=True, help="train.tsv, test.tsv of SST-2")
    parser.add_argument("--out", type=Path, default=DOC)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args(arguments)
    with options.titles.open(encoding="utf-8", newline="") as rows:
        titles = [key(row[1]) for row in csv.reader(rows)]
    sentences, phrases = (
        [key(line.split("\t")[0])
         for line in (options.phrases / name).read_text("utf-8").splitlines()[1:]]
        for name in ("test.tsv", "train.tsv")
    )  # fmt: skip
    copies = recall(titles + sentences)
    alike = {(i, j): s for (i, j), s in pairs_above(titles, titles, 0.5).items() if i < j}
    wrong = pairs_above(sentences, phrases, 0.5)
    text = table(copies, alike, wrong)
    print(text)
    before, _, rest = options.out.read_text("utf-8").partition("<!-- near copies -->\n")
    after = rest.partition("<!-- end -->")[2]
    options.out.write_text(f"{before}<!-- near copies -->\n{text}\n<!-- end -->{after}", "utf-8")
    thresholds = np.linspace(0.5, 0.95, 46)
    named = {"a typo": "recall: a typo", "a word is added": "recall: a word is added",
             "a word is removed": "recall: a word is removed",
             "a word is replaced": "recall: a word is replaced"}  # fmt: skip
    curves = {
        title: np.array([np.mean(copies[name][0] >= t) for t in thresholds])
        for name, title in named.items()
    }
    curves["precision: AG News titles"] = np.array(
        [np.mean([p not in NOT_COPIES for p, s in alike.items() if s >= t]) for t in thresholds]
    )
    options.picture.parent.mkdir(exist_ok=True)
    options.picture.write_text(picture(curves, thresholds), "utf-8")


if __name__ == "__main__":
    main()
