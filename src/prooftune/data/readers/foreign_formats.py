"""Formats that are no tables of texts and labels: their names, and what to do instead."""

from __future__ import annotations

import re

from prooftune.errors import UsageError

BINARY_FORMATS = {
    **dict.fromkeys(
        (b"$FL2", b"$FL3"),
        "an SPSS file: save it as CSV (in Python: pandas.read_spss(…).to_csv(…))",
    ),
    b"<stata_d": "a Stata file: save it as CSV (in Python: pandas.read_stata(…).to_csv(…))",
    b"\x93NUMPY": "a NumPy file, which holds numbers: save texts and labels as CSV",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file: save its table as CSV (in Python: pandas.read_hdf(…))",
    b"7z\xbc\xaf'\x1c": "a 7-Zip archive: unpack it with 7z x and name a file of it",
    b"Rar!\x1a\x07": "a RAR archive: unpack it with unrar x and name a file of it",
    b"RDX": "an R workspace: write its table with write.csv(x, row.names = FALSE)",
    b"X\n\x00\x00\x00": "an object of R: write its table with write.csv(x, row.names = FALSE)",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04\x95", b"\x80\x05\x95"),
        "a pickle of Python, which is not loaded, since it can run any code: write its table as "
        "CSV (in Python: pandas.read_pickle(…).to_csv(…), for files that you trust)",
    ),
}
"""First bytes of binary files -> name of the format and what to do."""
_SAS = bytes.fromhex("c2ea8160b31411cfbd92080009c7318c")
"""At byte 12 of SAS's data sets."""
_SAS_DATA = "a SAS data set: save it as CSV (in Python: pandas.read_sas(…).to_csv(…))"

_PAGE = "is a web page or XML. Open it with a spreadsheet program and save it as .xlsx or .csv"
_QUESTIONS = (
    "is a document of questions and answers. Write them as a table with the columns question and "
    "answer; to search it, see 'prooftune index'"
)
_Pattern = tuple[str, str, str]
"""How a text begins; what else it contains; name of the format and what to do."""
_FORMATS: tuple[_Pattern, ...] = (
    (r"\s*(?:<!doctype|<html|<table|<head|<body|<div|<p>)", r"<", _PAGE),
    (
        r"\s*<(?:\?xml|[a-zA-Z][\w:.-]*(?:\s+[\w:-]+\s*=\s*\"[^\"]*\")*\s*>\s*<)",
        r"</",
        f"{_PAGE} (in Python: pandas.read_xml(…).to_csv(…))",
    ),
    (
        r"(?:\s*(?:--|/\*|#|SET|USE|BEGIN|PRAGMA|DROP|LOCK|START)[^\n]*\n|\s*\n)*"
        r"\s*(?:CREATE\s+(?:TABLE|DATABASE|SCHEMA)|INSERT\s+INTO|COPY\s+\S+.*\bFROM\s+stdin)\b",
        r";",
        "holds SQL commands. Export the table from its database as CSV; a dump of SQLite is loaded "
        "with sqlite3 data.db < {name}, and its table is then data.db#TABLE",
    ),
    (
        r"(?:\s*%[^\n]*\n|\s*\n)*\s*@relation\b",
        r"@data\b",
        "is an ARFF file of Weka. Write its rows below @data as CSV, with the names of the "
        "attributes in the first line",
    ),
    (
        r"(?:T\d+\t\S+ \d+ \d+[^\n]*\n)",
        r"^T\d+\t",
        "holds labels of parts of a text (brat), for which there is no task",
    ),
    (
        r"(?:[-+]?\d+(?:\.\d+)?(?:,\d+)*(?: +\d+:[-+.\deE]+)+\s*(?:#[^\n]*)?\n){3}",
        r":",
        "holds numbers of features (LIBSVM), and no texts",
    ),
    (
        r"(?:-?\d+(?:\.\d+)? (?:\d\S* )?\|\w+ \S[^\n]*\n){3}",
        r"\|",
        "is in the format of Vowpal Wabbit. Write labels and texts as a table with the names of "
        "both in the first line",
    ),
    (
        r"(?:-DOCSTART-[^\n]*\n\s*)?(?:#[^\n]*\n)*"
        r"(?-i:(?:\S+(?:[ \t]\S+)*[ \t](?:O|[BIES]-\S+)[ \t]*\n){2,})",
        r"(?-i:[ \t][BIES]-\S+)[ \t]*$",
        "holds tags of single words, as CoNLL files do, for which there is no task",
    ),
    (
        r"(?:# [^\n]*\n)+1\t\S+\t\S+\t\S+\t",
        r"^2\t",
        "holds syntax trees (CoNLL-U), for which there is no task",
    ),
    (
        r"(?:\+-+)+\+\s*\n\|",
        r"\|\s*\n",
        "is a table with a drawn frame, as database shells print it. Export it as CSV instead "
        "(psql --csv; mysql --batch writes tabs)",
    ),
    (
        r"[^\n]*\|[^\n]*\n-+(?:\+-+)+\s*\n",
        r"\|",
        "is a table as psql prints it. Export it as CSV: psql --csv, or \\copy … csv header",
    ),
)
_DOCUMENTS: tuple[_Pattern, ...] = (
    (
        r"(?:version:[^\n]*\n|\s*\n|#[^\n]*\n)*nlu:\s*\n\s*- intent:",
        r"examples:",
        "is Rasa's training data as YAML. Convert it with rasa data convert nlu -f json, whose "
        "JSON is read",
    ),
    (
        r"\s*## intent:",
        r"^- ",
        "is Rasa's training data as Markdown. Convert it with rasa data convert nlu -f json, whose "
        "JSON is read",
    ),
    (
        r"(?:---\s*\n|#[^\n]*\n|\s*\n)*"
        r"(?:- [\w-]+: [^\n]*\n  [\w-]+:|[\w -]+:\s*(?:\|\s*)?\n +-? ?\S)",
        r"^ *(?:- |[\w-]+:)",
        "looks like YAML. Write it as JSON (in Python: json.dump(yaml.safe_load(…), …))",
    ),
    (
        r"From \S+@?\S* +\w{3} \w{3} [ \d]\d [\d:]{5,8}",
        r"^Subject:",
        "is a mailbox. Write its messages as a table with a label for each; to search them, see "
        "'prooftune index'",
    ),
    (
        r"(?:\s*#[^\n]*\n|\s*\n)*\s*## [^\n]+\?[ \t]*\n",
        r"^## .*\?",
        _QUESTIONS,
    ),
    (
        r"\s*(?:Q(?:uestion)?|F(?:rage)?|P(?:regunta)?)\s*\d*\s*[:.] [^\n]+\n+"
        r"\s*(?:A|R|Antwort|Answer)\w*\s*\d*\s*[:.] ",
        r"^\s*(?:A|R|Antwort|Answer)",
        _QUESTIONS,
    ),
)
_START = 20_000


def refuse_foreign_text(name: str, text: str) -> None:
    """Refuse a text of a format that is no table of texts and labels.

    Raises:
        UsageError: it is SQL, XML, ARFF, CoNLL or another such format.
    """
    _refuse(name, text, _FORMATS)


def refuse_page(name: str, text: str) -> None:
    """Refuse a web page, with which servers answer under any name.

    Raises:
        UsageError: it is one.
    """
    if re.match(r"\s*(?:<!doctype|<html|<\?xml)", text[:_START], re.IGNORECASE):
        raise UsageError(f"{name} {_PAGE}")


def refuse_document(name: str, text: str) -> None:
    """Refuse YAML, Markdown and other documents; for texts that are no lines with labels.

    Raises:
        UsageError: it is one.
    """
    _refuse(name, text, _DOCUMENTS)


_LONG_SEPARATORS = ("+++$+++", ":::", "|||", "@@@", "###", "<sep>", "::", "||", "\t\t", ";;")


def refuse_long_separator(name: str, text: str) -> None:
    """Refuse lines that are divided by several characters, which are no separator of CSV.

    Raises:
        UsageError: every line holds the same one, equally often.
    """
    lines = [line for line in text[:_START].splitlines()[:200] if line.strip()]
    lines = lines[:-1] if len(text) > _START else lines
    for separator in _LONG_SEPARATORS:
        counts = {line.lower().count(separator) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and counts != {0}:
            raise UsageError(
                f"{name}: columns are between {separator!r}, and a separator has one character. "
                f"Replace it by a tab, as in sed 's/{separator}/\\t/g' {name} > {name}.tsv"
            )


def _refuse(name: str, text: str, patterns: tuple[_Pattern, ...]) -> None:
    start = text[:_START]
    for begins, holds, what in patterns:
        if re.match(begins, start, re.IGNORECASE) and re.search(holds, start, re.M | re.IGNORECASE):
            raise UsageError(f"{name} {what.replace('{name}', name)}")


def binary_format(start: bytes) -> str | None:
    """What a binary file is and what to do, by its first bytes; None if it is not known."""
    if start[12:28] == _SAS:
        return _SAS_DATA
    return next((what for magic, what in BINARY_FORMATS.items() if start.startswith(magic)), None)
