"""Messages that name what to install: with the package there, the same call succeeds.

`test_install_hints` holds that the named extra brings the package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prooftune import recipe as recipes
from prooftune.errors import ProoftuneError
from prooftune.evaluation.answers import bleu, overlap, scores, wordnet
from prooftune.models.loading import quantization_config
from prooftune.preflight.search import check_search
from prooftune.preflight.sources import check_sources
from prooftune.retrieval import bm25, store
from prooftune.retrieval.formats import html, office, opendocument, pdf, sheets
from prooftune.retrieval.formats.epub import read_epub
from prooftune.search import optimization
from prooftune.serving import check_installed
from retrieval import test_office_documents as documents
from retrieval.tiny import pdf as made_pdf
from ways_out import follows, names, refused

TEXTS = (["a cat"], [["a cat"]])
PDF = made_pdf(["Thirty days."])
RTF = b"{\\rtf1 Thirty days.}"
DATA = {"train": "a.csv", "text": "text", "label": "label"}


def recipe(**values: Any) -> recipes.Recipe:
    return recipes.parse({"name": "x", "data": DATA, **values})


def raise_first(findings: Any) -> None:
    for finding in findings:
        if finding.severity == "error":
            raise ProoftuneError(finding.message)


def searched() -> None:
    raise_first(check_search(recipe(variants=["tuned"], search={"space": {"lora.r": [4, 8]}})))


def endpoint() -> None:
    settings = {"kind": "endpoint", "endpoint": {"model": "m", "base_url": "http://a/v1"}}
    shown = check_sources(recipe(variants={"api": settings}), Path())
    raise_first(f for f in shown if f.key_path.startswith("variants"))


def judged() -> None:
    judge = {"model": "m", "base_url": "http://a/v1"}
    values = recipe(variants={"few": {"kind": "majority"}}, judge=judge)
    shown = check_sources(values, Path())
    raise_first(f for f in shown if f.key_path.startswith("judge"))


def stemmed() -> None:
    bm25._stemmer.cache_clear()
    bm25._stemmer()


def index() -> None:
    store.connect("/tmp/nothing", create_if_missing=False)


def study() -> None:
    optimization._open_study(Path("/dev/null/x"), "accuracy")


EXTRAS: list[tuple[str, str, Callable[[], object]]] = [
    ("lxml", follows("EPUB books need lxml: pip install"), lambda: read_epub(documents.epub())),
    ("bs4", follows("need beautifulsoup4 and lxml: pip install"), lambda: html.parse("<p>a</p>")),
    (
        "mammoth",
        follows("{…} need {…}: pip install 'prooftune[retrieval]'"),
        lambda: office.read_word(documents.word()),
    ),
    ("pptx", "need python-pptx: pip install", lambda: office.read_slides(documents.slides())),
    ("striprtf.striprtf", "need striprtf: pip install", lambda: office.read_rtf(RTF)),
    (
        "lxml",
        follows("OpenDocument files need lxml: pip install"),
        lambda: opendocument.read_opendocument(documents.opendocument()),
    ),
    (
        "pypdf",
        follows("PDF documents need pypdf: pip install"),
        lambda: pdf.read_pdf(PDF),
    ),
    (
        "python_calamine",
        follows("spreadsheets need python-calamine: pip install"),
        lambda: sheets.read_sheet(documents.sheets()),
    ),
    ("nltk.stem.porter", follows("BM25 search needs nltk: pip install"), stemmed),
    ("sacrebleu.metrics.bleu", follows("BLEU needs sacrebleu"), lambda: bleu.counts(*TEXTS)),
    ("rouge_score.rouge_scorer", follows("ROUGE needs rouge-score"), lambda: overlap.rouge(*TEXTS)),
    (
        "nltk.translate.meteor_score",
        follows("METEOR needs nltk: pip install"),
        lambda: overlap.meteor(*TEXTS),
    ),
    ("sacrebleu", follows("measuring answers needs {…}: pip install"), scores.require_libraries),
    ("fastapi", follows("serving needs {…}: pip install"), check_installed),
    ("optuna", follows("needs Optuna: pip install 'prooftune[search]'"), searched),
    ("openai", follows("needs the openai client: pip install 'prooftune[judge]'"), endpoint),
    ("openai", "needs the openai client: pip install 'prooftune[judge]'", judged),
    (
        "bitsandbytes",
        follows("quantization: needs bitsandbytes, which is not installed: pip install"),
        lambda: quantization_config({"load_in_4bit": True}),
    ),
]


@pytest.mark.parametrize(("module", "message", "call"), EXTRAS, ids=[m for _, m, _ in EXTRAS])
def test_a_package_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, module: str, message: str, call: Callable[[], object]
) -> None:
    monkeypatch.setattr(overlap, "synonyms", lambda: ("", wordnet.NoSynonyms()))
    with monkeypatch.context() as patch, pytest.raises(ProoftuneError) as error:
        patch.setitem(sys.modules, module, None)
        call()
    assert names(message, str(error.value)), str(error.value)
    call()


@pytest.mark.parametrize(
    ("module", "message", "call"),
    [
        ("lancedb", follows("an index needs lancedb: pip install 'prooftune[retrieval]'"), index),
        ("optuna", follows("search needs Optuna: pip install 'prooftune[search]'"), study),
    ],
)
def test_a_package_that_is_installed_lets_the_next_thing_be_refused(
    monkeypatch: pytest.MonkeyPatch, module: str, message: str, call: Callable[[], object]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ProoftuneError) as error:
        patch.setitem(sys.modules, module, None)
        call()
    assert names(message, str(error.value))
    with pytest.raises((ProoftuneError, OSError)) as other:
        call()
    assert "pip install" not in str(other.value)


def test_the_parser_of_html(monkeypatch: pytest.MonkeyPatch) -> None:
    import bs4

    def without(*_: object) -> None:
        raise bs4.FeatureNotFound

    with monkeypatch.context() as patch:
        patch.setattr(bs4, "BeautifulSoup", without)
        with refused("HTML documents need lxml: pip install 'prooftune[retrieval]'"):
            html.parse("<p>a</p>")
    assert html.parse("<p>a</p>").get_text() == "a"


def test_the_package_that_decrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    import pypdf
    from pypdf.errors import DependencyError

    content = made_pdf(["Open to all."], password="")

    def without(*_: object) -> None:
        raise DependencyError

    with monkeypatch.context() as patch:
        patch.setattr(pypdf, "PdfReader", without)
        with refused(
            "needs the cryptography package: pip install 'prooftune[retrieval]'", Exception
        ):
            pdf.read_pdf(content)
    assert pdf.read_pdf(content)[0]
