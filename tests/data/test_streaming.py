"""Reading by blocks gives what whole-file reading gives, wherever it starts, and says the same of
the same faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tabled import file, refused, table
from prooftune.data.readers.streaming import Block, ScannedFile, iter_blocks, scan_file
from prooftune.errors import UsageError
from prooftune.recipe import Source

CSV = 'text,n\n"two\nlines, quoted",1\n\nplain,2\n"a ""b""",3\nü,4\n"\n",5\n'
JSONL = (
    '{"text": "a", "n": 1}\n\n{"n": null, "text": "ü\\ud83d"}\n{"text": ["x"], "new": '
    '2.0}\n{"text": "last", "n": 4}'
)


def stream(path: Path, **options: Any) -> ScannedFile:
    return scan_file(path, Source(path=str(path), **options))


def cells(some: list[Block]) -> list[list[str | None]]:
    return [
        list(row)
        for block in some
        for row in zip(*(block.column_texts(c) for c in block.columns), strict=True)
    ]


def parquet(path: Path, groups: int = 3) -> Path:
    pq.write_table(
        pa.table({"text": ["a", None, "c", "d", "e", "f", "g"], "n": list(range(7))}),
        path,
        row_group_size=groups,
    )
    return path


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_blocks_contain_all_rows_of_the_file(tmp_path: Path, name: str, size: int) -> None:
    path = (
        parquet(tmp_path / name)
        if name == "a.parquet"
        else file(tmp_path, name, CSV if name == "a.csv" else JSONL)
    )
    whole, streamed = table(path), stream(path)
    assert (streamed.columns, streamed.rows) == (whole.columns, len(whole.rows))
    blocks = list(iter_blocks(streamed, 0, size, 1 << 20))
    assert cells(blocks) == whole.rows
    start = 0
    for number, block in enumerate(blocks):
        # Reading that starts where a block starts cuts the rest in the same way.
        assert [cells([b]) for b in iter_blocks(streamed, start, size, 1 << 20)] == [
            cells([b]) for b in blocks[number:]
        ]
        start += len(block)
    assert list(iter_blocks(streamed, start, size, 1 << 20)) == []


def test_long_rows_end_a_block_early(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", "text\n" + "".join(f"{'x' * 600}\n" for _ in range(5)))
    assert [len(block) for block in iter_blocks(stream(path), 0, 100, 1000)] == [2, 2, 1]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(content=st.text(alphabet='ab,;"\n\r\t é', min_size=1, max_size=40))
def test_streaming_gives_the_rows_or_errors_of_whole_file_reading(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = file(tmp_path_factory.mktemp("any"), "a.csv", content)
    try:
        whole = table(path)
    except UsageError as error:
        with pytest.raises(UsageError) as caught:
            stream(path)
        assert str(caught.value) == str(error)
    else:
        assert cells(list(iter_blocks(stream(path), 0, 2, 1 << 20))) == whole.rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""),
        ("a.csv", "\n"),
        ("a.csv", "text\n"),
        ("a.csv", "a,b\n1,2\n3\n"),
        ("a.csv", 'a\nb\n"c,d\n'),
        ("a.csv", b"PK\x03\x04"),
        ("a.csv", b"text\n" + b"ok\n" * 300_000 + b"caf\xe9\n"),
        ("a.csv", b"text\nok\xc3"),
        ("a.csv", b"a\0b"),
        ("a.jsonl", "\n"),
        ("a.jsonl", '{"a": 1}\n[2]\n'),
        ("a.jsonl", '[{"a": 1}]\n'),
        ("a.jsonl", '{"a": 1}\n{"a"\n'),
        ("a.jsonl", '{"a": "' + "x" * 1_000_000 + '"}'),
        ("a.parquet", "text"),
        ("a.parquet", b"PAR1....PAR1"),
    ],
)
def test_streaming_has_the_error_messages_of_whole_file_reading(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    path = file(tmp_path, name, content)
    with pytest.raises(UsageError) as caught:
        stream(path)
    assert str(caught.value) == refused(path)


def test_an_invalid_byte_far_into_the_file_is_located(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", b"text\n" + b"fine \xc3\xbc\n" * 400_000 + b"caf\xe9\n")
    assert f"{path}:400002: byte 0xe9 is not valid utf-8" in refused(path)


def test_a_damaged_parquet_page_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [f"row {i}" for i in range(5000)]}),
        path,
        row_group_size=1000,
        compression="zstd",
    )
    content = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content[page : page + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.parquet is not a Parquet file, or is damaged"):
        list(iter_blocks(stream(path), 0, 100, 1 << 20))


def test_files_that_cannot_be_streamed_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="format json cannot be read row by row; csv, jsonl and parquet can"
    ):
        stream(file(tmp_path, "a.json", "[]"))
