"""The playground in a real Chromium, over a server with tiny bundles: used by hand, by keyboard,
and read by assistive tools."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prooftune.bundle.qa import QuestionAnswerer
from prooftune.serving.app import PLAYGROUND_FOLDER, SHARED_STYLE, Options
from serving.made import Live, live
from study.small import classifier

pytestmark = pytest.mark.slow

CHROMIUM = (
    os.environ.get("PROOFTUNE_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("chromium-browser")
)
SHOTS = os.environ.get("PROOFTUNE_SHOTS")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not here (set PROOFTUNE_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        one = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, server: Live) -> Iterator[Any]:
    with opened(browser, server.url) as one:
        yield one


class opened:  # noqa: N801
    """A page that fails the test if it asks another host, breaks its own policy, or raises."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self._context = browser.new_context(
            **{"viewport": {"width": 1100, "height": 900}, **options}
        )
        self._url, self._origin = url, url.removesuffix("/docs")
        self.problems: list[str] = []

    def __enter__(self) -> Any:
        page = self._context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda m: (
                self.problems.append(m.text)
                if m.type == "error" and "status of 4" not in m.text
                else None
            ),
        )
        own = (self._origin, "blob:", "data:")
        page.on(
            "request", lambda r: self.problems.append(r.url) if not r.url.startswith(own) else None
        )
        page.goto(self._url)
        return page

    def __exit__(self, *_: Any) -> None:
        self._context.close()
        assert self.problems == []


def shot(page: Any, name: str) -> None:
    """A picture to look at, where a folder for them is named."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def ask(page: Any, model: str, **fields: str) -> None:
    page.get_by_label("Bundle").select_option(model)
    for field, text in fields.items():
        page.locator(f"#field-{field}").fill(text)
    page.get_by_role("button", name="Ask").click()
    page.locator("#status").get_by_text("Answered in").wait_for()


def bars(page: Any, side: str) -> dict[str, str]:
    rows = page.locator(f"#{side} .bars li")
    return {
        rows.nth(i).locator(".name").inner_text(): rows.nth(i).locator(".share").inner_text()
        for i in range(rows.count())
    }


def test_tuned_and_base_stand_side_by_side_with_their_numbers(
    page: Any, folders: dict[str, Path]
) -> None:
    text = "goal scored planet"
    ask(page, "topics", text=text)
    bundle = classifier(folders["topics"])
    for side, tuned in (("tuned", True), ("base", False)):
        [want] = bundle.predict([text], tuned=tuned)
        assert page.locator(f"#{side} .verdict").inner_text() == want.label
        assert bars(page, side) == {
            label: f"{100 * p:.1f}%" for label, p in want.probabilities.items()
        }
        assert next(iter(bars(page, side))) == want.label
    page.locator("#words").wait_for()
    assert page.locator("#words-text").inner_text().split() == text.split()
    assert page.locator("#words-table tbody tr").count() == 3
    shot(page, "light-label")


def test_below_the_threshold_it_abstains(page: Any, folders: dict[str, Path]) -> None:
    bundle = classifier(folders["topics"])
    texts = ["goal", "", "planet orbit", "stocks fell", "cat sat", "it was very new"]
    answers = {
        t: a
        for t, a in zip(texts, bundle.predict(texts), strict=True)
        if t and a.probability is not None
    }
    unsure = min(answers, key=lambda t: answers[t].probability or 0.0)
    sure = max(answers, key=lambda t: answers[t].probability or 0.0)
    assert (answers[unsure].probability or 1) < 0.6 <= (answers[sure].probability or 0)
    ask(page, "topics", text=unsure)
    assert "Abstains. Its probability" in page.locator("#tuned .note").inner_text()
    assert page.locator("#base .note").count() == 0
    shot(page, "light-abstained")
    ask(page, "topics", text=sure)
    assert page.locator("#tuned .note").count() == 0


def test_a_head_says_why_there_is_no_base(page: Any) -> None:
    ask(page, "head", text="goal")
    assert "an untrained head has no predictions" in page.locator("#base").inner_text()
    assert page.locator("#tuned .bars li").count() == 3


def test_answers_show_their_passages_and_which_they_cite(
    page: Any, server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = server.service.served["library"].bundle
    assert isinstance(bundle, QuestionAnswerer)
    real = QuestionAnswerer.predict

    def cites(self: Any, questions: Any, **options: Any) -> Any:
        # The tiny model cites nothing of itself.
        result = real(self, questions, **options)
        return [
            replace(r, answer="apple pear", sources=r.retrieved[:1], unknown_citations=1)
            for r in result
        ]

    monkeypatch.setattr(QuestionAnswerer, "predict", cites)
    ask(page, "library", question="apple pear")
    assert page.locator("#tuned .verdict").inner_text() == "apple pear"
    assert page.locator("#tuned .passages > li").count() == 3
    cited = page.locator("#tuned .passages > li.cited")
    assert (
        cited.count() == 1 and "fruit.txt" in cited.inner_text() and "cited" in cited.inner_text()
    )
    assert cited.locator("mark").inner_text() == "apple pear"
    assert "1 passage that it was not shown" in page.locator("#tuned .note").inner_text()
    assert page.locator("#words").is_hidden()
    shot(page, "light-answer")


def test_texts_are_shown_and_never_acted_on(page: Any) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script> goal"
    ask(page, "topics", text=hostile)
    page.locator("#words").wait_for()
    assert page.locator("#words-text img, #words-text script").count() == 0
    assert "<img src=x onerror=alert(1)>" in page.locator("#words-text").inner_text()


def test_the_keyboard_is_enough(page: Any) -> None:
    page.get_by_label("Bundle").wait_for()
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]
    assert (
        seen[:5] == ["Skip to the form", "API", "model", "field-text", "send"] and seen[5] == "file"
    )
    page.locator("#field-text").focus()
    page.keyboard.type("goal")
    page.keyboard.press("Control+Enter")
    page.locator("#status").get_by_text("Answered in").wait_for()
    status = page.locator("#status").inner_text()
    assert "Tuned: " in status and status.endswith(".") and ".." not in status


def test_errors_are_announced_to_screen_readers(page: Any) -> None:
    page.get_by_label("Bundle").select_option("news")
    page.locator("#field-head").fill("a")
    page.get_by_role("button", name="Ask").click()
    assert page.get_by_role("alert").first.inner_text() == "Enter text in “body” first."
    assert page.evaluate("document.activeElement.id") == "field-body"
    page.locator("#field-body").fill("a" * 100_001)
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("text 0 has 100,001 characters; at most 100,000").wait_for()


def test_everything_has_a_name_and_headings_follow_each_other(page: Any) -> None:
    ask(page, "topics", text="goal")
    unnamed = page.evaluate("""[...document.querySelectorAll(
      "input, select, textarea, button, progress, section, article")]
      .filter((e) => !(
        e.labels?.length || e.textContent.trim() || e.getAttribute("aria-labelledby")))
      .map((e) => e.outerHTML)""")
    assert unnamed == []
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].filter((e) => e.offsetParent).map((e) => "
        "+e.tagName[1])"
    )
    assert levels[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dark", {"color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 390, "height": 844}, "has_touch": True}),
        ("phone-dark", {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}),
    ],
)
def test_it_fits_in_the_dark_and_on_a_phone(
    browser: Any, server: Live, name: str, options: dict[str, Any]
) -> None:
    with opened(browser, server.url, **options) as page:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 27)" if "dark" in name else "rgb(255, 255, 255)")
        long = "goal scored on a mat " + "unbroken" * 30
        for model, fields in (("topics", {"text": long}), ("library", {"question": "apple pear"})):
            ask(page, model, **fields)
            if model == "topics":
                page.locator("#words").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), model
            shot(page, f"{name}-{model}")


def upload(page: Any, content: bytes, name: str = "in.csv") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})


def test_a_file_is_labelled_row_by_row(page: Any, folders: dict[str, Path]) -> None:
    cells = [
        "goal",
        'a "quoted", cell',
        "two\nlines",
        "crlf\r\nin it",
        "",
        " spaces ",
        "ünï 漢字 🎉",
    ]
    cells += [f"cat {i}" for i in range(60)]
    rows = [[f"{i:03d}", text] for i, text in enumerate(cells)]
    given = io.StringIO(newline="")
    csv.writer(given).writerows([["label", "text"], *rows])
    page.get_by_label("Bundle").select_option("topics")
    upload(page, given.getvalue().encode())
    assert page.get_by_label("Column with the text").input_value() == "1"
    page.get_by_role("button", name="Start").click()
    page.get_by_text(f"{len(rows)} rows done.").wait_for()
    shot(page, "light-file")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the result").click()
    assert download.value.suggested_filename == "in-answers.csv"
    result = list(
        csv.DictReader(io.StringIO(Path(download.value.path()).read_bytes().decode(), newline=""))
    )
    assert [[r["label"], r["text"]] for r in result] == rows
    assert list(result[0]) == [
        "label",
        "text",
        "predicted_label",
        "probability",
        "probability_World",
        "probability_Sports",
        "probability_Sci/Tech",
        "abstained",
        "truncated_tokens",
    ]
    for row, want in zip(result, classifier(folders["topics"]).predict(cells), strict=True):
        assert row["predicted_label"] == want.label and float(row["probability"]) == pytest.approx(
            want.probability, abs=1e-5
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty."),
        (b"text\n\xff\xfe\n", "The file is not UTF-8 text."),
        (b"text,label,predicted_label\na,b,c\n", "has a column predicted_label already"),
        (b"text,n\na,b\nc\n", "Line 3: 1 cells, but the header has 2."),
        (b'text\n"a\n', "The quote that opens in the row at line 2"),
    ],
)
def test_invalid_csv_is_reported(page: Any, content: bytes, message: str) -> None:
    page.get_by_label("Bundle").select_option("topics")
    upload(page, content)
    if content and b"\xff" not in content:  # errors in the first chunk appear without Start
        page.get_by_role("button", name="Start").click()
    page.locator("#batch-problem").get_by_text(message).wait_for()


def test_csv_round_trip_agrees_with_python(page: Any) -> None:
    """For any chunk size."""
    rows = [["a", "b"], ['"', ",;"], ["", ""], ["x\ny", 'say "hi"'], ["\r\n", " "], ["漢", "🎉"]]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    for size in (1, 2, 3, 1000):
        result = page.evaluate(
            """async ([text, size]) => {
          const { parser, formatRow } = await import("./assets/csv.js");
          const parse = parser(","), rows = [];
          for (let i = 0; i < text.length; i += size) rows.push(...parse(text.slice(i, i + size)));
          rows.push(...parse(null));
          const text_ = rows.map((row) => formatRow(row.cells, ",")).join("");
          return [rows.map((row) => row.cells), text_];
        }""",
            [text.getvalue(), size],
        )
        assert result[0] == rows
        assert list(csv.reader(io.StringIO(result[1], newline=""))) == rows


def test_a_key_is_asked_for_and_used(browser: Any, folders: dict[str, Path]) -> None:
    key = "k" * 24
    with (
        live({"topics": folders["topics"]}, Options(keys=[key])) as server,
        opened(browser, server.url) as page,
    ):
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("no valid API key").wait_for()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use it").click()
        page.locator("#field-text").fill("goal")
        page.get_by_role("button", name="Ask").click()
        page.locator("#status").get_by_text("Answered in").wait_for()
        assert page.get_by_label("Bundle").is_hidden()
        assert (
            key not in page.content()
            and page.evaluate("localStorage.length + sessionStorage.length") == 0
        )


def test_the_api_page_describes_every_route(browser: Any, server: Live) -> None:
    with opened(browser, f"{server.url}/docs") as page:
        page.get_by_text("/v1/chat/completions").wait_for()
        assert page.locator(".route h2").count() == 8
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        shot(page, "light-docs")


@pytest.mark.slow
def test_the_pages_load_nothing_from_elsewhere() -> None:
    for path in [SHARED_STYLE, *PLAYGROUND_FOLDER.iterdir()]:
        text = path.read_text("utf-8")
        assert not re.search(
            r"https?://|@import|url\(|//cdn|innerHTML|insertAdjacentHTML|eval\(|document\.write",
            text,
        ), path.name
        if path.suffix == ".html":
            assert (
                "<style" not in text
                and " style=" not in text
                and not re.search(r"<script(?! type=\"module\" src=)", text)
            )
            assert not re.search(r"\son\w+=", text)
