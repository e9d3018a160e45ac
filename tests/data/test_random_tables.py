"""Random tables: `init`'s recipe reads every row, or `init` rejects the table with a message."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prooftune import recipe as recipes
from prooftune.data.init.recipe_writer import draft_recipe
from prooftune.data.splits import load_splits

SCRIPTS = {
    "English": (("parcel late again", "card was refused"), ("delivery", "payment"), ["cp1252"]),
    "Russian": (("посылка опять опоздала", "карту не приняли"), ("доставка", "оплата"), ["cp1251"]),
    "Chinese": (("包裹又迟到了", "卡被拒绝了"), ("物流", "支付"), ["gb18030"]),
    "Japanese": (
        ("荷物がまた遅れました", "カードが使えません"),
        ("配送", "支払い"),
        ["cp932", "euc_jp"],
    ),
    "Korean": (("소포가 또 늦었어요", "카드가 거절됐어요"), ("배송", "결제"), ["cp949"]),
    "Greek": (
        ("το δέμα άργησε πάλι", "η κάρτα δεν έγινε δεκτή"),
        ("αποστολή", "πληρωμή"),
        ["cp1253"],
    ),
    "Arabic": (("تأخر الطرد مرة أخرى", "رفضت البطاقة"), ("توصيل", "دفع"), ["cp1256"]),
    "Hindi": (("पार्सल फिर देर से आया", "कार्ड अस्वीकार हुआ"), ("वितरण", "भुगतान"), []),
    "Amharic": (("ጥቅሉ እንደገና ዘገየ", "ካርዱ ተቀባይነት አላገኘም"), ("ማድረስ", "ክፍያ"), []),
    "German": (
        ("Päckchen wieder verspätet", "Karte läuft nicht über"),
        ("Störung", "Gebühr"),
        ["cp1252"],
    ),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    script = draw(st.sampled_from(sorted(SCRIPTS)))
    texts, labels, encodings = SCRIPTS[script]
    count = draw(st.integers(30, 60))
    extra = draw(st.sampled_from(["", ', "well"', "; so", "\nsecond line", "\ttabbed"]))
    rows = [
        (f"{texts[i % 2]} {i}{extra if i % 7 == 0 else ''}", labels[i % 2]) for i in range(count)
    ]
    return {
        "rows": rows,
        "names": draw(
            st.sampled_from([("text", "label"), ("review", "topic"), ("Body", "Category")])
        ),
        "order": draw(st.booleans()),
        "others": draw(st.sampled_from([(), ("id",), ("date", "id")])),
        "blank": draw(st.booleans()),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", *encodings])),
        "delimiter": draw(st.sampled_from([",", ";", "\t", "|"])),
        "end": draw(st.sampled_from(["\n", "\r\n"])),
        "quote_all": draw(st.booleans()),
        "compression": draw(st.sampled_from(sorted(COMPRESS))),
        "lines": draw(st.booleans()),
    }


def write(table: dict[str, Any], folder: Path) -> Path:
    (text, label), records = table["names"], []
    for number, (body, target) in enumerate(table["rows"]):
        record = {text: body, label: target} if table["order"] else {label: target, text: body}
        values = {"id": f"r{number}", "date": f"2024-03-{number % 28 + 1:02}"}
        records.append({**record, **{name: values[name] for name in table["others"]}})
    if table["lines"]:
        content = "".join(json.dumps(r, ensure_ascii=False) + table["end"] for r in records)
        name = "table.jsonl"
    else:
        out = io.StringIO(newline="")
        quoting: Literal[0, 1] = 1 if table["quote_all"] else 0  # QUOTE_ALL, QUOTE_MINIMAL
        writer = csv.writer(
            out, delimiter=table["delimiter"], lineterminator=table["end"], quoting=quoting
        )
        writer.writerow(list(records[0]))
        for number, record in enumerate(records):
            writer.writerow(record.values())
            if table["blank"] and number % 10 == 0:
                writer.writerow([""] * len(record))
        content, name = out.getvalue(), "table.csv"
    path = folder / f"{name}{table['compression']}"
    path.write_bytes(COMPRESS[table["compression"]](content.encode(table["encoding"])))
    return path


@pytest.mark.slow
@given(tables())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_row_is_lost_changed_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, table: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("table")
    monkeypatch.setenv("PROOFTUNE_CACHE", str(folder / "cache"))
    path = write(table, folder)
    text, _ = draft_recipe(path, folder / "table.yaml")
    (folder / "table.yaml").write_text(text, "utf-8")
    study = load_splits(*recipes.load(folder / "table.yaml"))
    read = Counter(
        (e.inputs[table["names"][0]], str(e.target))
        for split in study.splits().values()
        for e in split
    )
    assert read == Counter(table["rows"])
