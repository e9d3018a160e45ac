"""HTML -> sections of the text that a reader sees, without navigation."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prooftune.errors import UsageError
from prooftune.retrieval.discovery import UnreadableDocument
from prooftune.retrieval.formats.decoding import decode_html
from prooftune.retrieval.headings import SectionBuilder
from prooftune.retrieval.types import DocumentPart

if TYPE_CHECKING:
    from bs4 import BeautifulSoup
    from bs4.element import PageElement, Tag

MAX_HTML_BYTES = 20_000_000
"""Maximum bytes of a page; beautifulsoup4 takes about a minute and 4 GB for one of this size."""

MAX_DEPTH = 2_000
"""Maximum nesting of elements. Real pages stay below 100; parsing time is quadratic in it."""

_INVISIBLE = [
    "script",
    "style",
    "noscript",
    "template",
    "button",
    "select",
    "datalist",
    "svg",
    "iframe",
    "object",
    "head",
]
_BOILERPLATE = ["nav", "aside", "footer"]
_HIDING_STYLE = re.compile(r"(^|;)\s*(display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_PARAGRAPHS = frozenset(
    [
        "blockquote",
        "dl",
        "ol",
        "p",
        "pre",
        "table",
        "ul",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
    ]
)
_BLOCKS = frozenset(
    [
        "address",
        "aside",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "details",
        "div",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "legend",
        "li",
        "main",
        "nav",
        "option",
        "summary",
        "tbody",
        "tfoot",
        "thead",
        "tr",
    ]
)
_LINE, _PARAGRAPH = "\x1e", "\x1d"
"""Block boundary marks (the ASCII record and group separators)."""
_VOID = frozenset(["br", "hr"])
_CELLS = frozenset(["td", "th"])
_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^>]*?(/?)>")
_NO_END = frozenset(
    b"area base br col embed hr img input link meta param source track wbr p li dt dd td th tr "
    b"option thead tbody "
    b"tfoot colgroup".split()
)
"""Elements without an end tag, or with an optional one."""


def read_html(content: bytes) -> tuple[list[DocumentPart], str | None]:
    """The sections of a page, split at its headings (h1 to h6), and a note if its encoding is a
    guess.

    Hidden elements are left out. So are navigation, asides and footers, unless nothing else has
    text.

    Raises:
        UnreadableDocument: the page is too large, nested too deeply, or not text.
        UsageError: beautifulsoup4 or lxml is missing.
    """
    if len(content) > MAX_HTML_BYTES:
        raise UnreadableDocument(
            f"{len(content) / 1e6:.0f} MB of HTML, more than {MAX_HTML_BYTES // 1_000_000} MB"
        )
    # Counted before parsing, which is what takes so long.
    if _depth(content) > MAX_DEPTH:
        raise UnreadableDocument(f"more than {MAX_DEPTH:,} nested HTML elements")
    decoded = decode_html(content)
    parts: list[DocumentPart] = []
    for left_out in ([*_INVISIBLE, *_BOILERPLATE], _INVISIBLE):
        # Parsed again for the second round: removing elements changes the tree.
        soup = parse(decoded.text)
        title = soup.title.get_text(" ", strip=True) if soup.title else ""
        _remove_invisible(soup, left_out)
        parts = sections_of(soup, title)
        if parts:
            break
    return parts, decoded.note


def parse(text: str) -> BeautifulSoup:
    """Parse HTML or XHTML, without the library's warnings about the markup.

    Raises:
        UsageError: beautifulsoup4 or lxml is missing.
    """
    try:
        import bs4
    except ImportError:
        raise UsageError(
            "HTML documents need beautifulsoup4 and lxml: pip install 'prooftune[retrieval]'"
        ) from None
    with warnings.catch_warnings():
        # beautifulsoup4 warns of XHTML, and of short texts that look like the name of a file.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return bs4.BeautifulSoup(text, "lxml")
        except bs4.FeatureNotFound:
            raise UsageError(
                "HTML documents need lxml: pip install 'prooftune[retrieval]'"
            ) from None


def _remove_invisible(soup: BeautifulSoup, names: list[str]) -> None:
    for element in soup.find_all(names):
        element.extract()
    for element in soup.find_all(_is_hidden):
        # html and body hide until scripts have run, which never happens here.
        if element.name not in ("html", "body"):
            element.extract()


def _is_hidden(element: Tag) -> bool:
    return (
        element.has_attr("hidden")
        or element.get("aria-hidden") == "true"
        or bool(_HIDING_STYLE.search(str(element.get("style", ""))))
    )


def sections_of(soup: BeautifulSoup, title: str = "") -> list[DocumentPart]:
    """The parts of a parsed page: one for every heading and the text below it.

    Args:
        soup: the page without what is to be left out.
        title: title of the document, above every heading; empty for none.
    """
    sections = SectionBuilder()
    if title:
        sections.heading(0, title)
    _collect_text(soup, sections)
    sections.close()
    return [_normalize_space(part) for part in sections.parts]


def _depth(content: bytes) -> int:
    """An upper bound of the nesting depth, from the tags alone."""
    deepest = depth = 0
    for match in _TAG.finditer(content):
        closing, name, empty = match.groups()
        if name.lower() in _NO_END or empty:
            continue
        depth = max(0, depth - 1) if closing else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _collect_text(soup: Tag, sections: SectionBuilder) -> None:
    from bs4.element import NavigableString, Tag

    heading: Tag | None = None
    for node, entered in _walk(soup):
        if isinstance(node, Tag):
            if heading is None and entered and re.fullmatch("h[1-6]", node.name):
                heading = node
                title = " ".join(node.get_text(" ").split())
                if title:
                    sections.heading(int(node.name[1]), title)
            elif heading is node:
                heading = None
            elif heading is None and (entered or node.name not in _VOID):
                sections.add(_separator(node.name))
        # Comments and declarations are subclasses of NavigableString.
        elif heading is None and entered and type(node) is NavigableString:
            # Line breaks are only spaces in HTML, except in preformatted text.
            inside_pre = node.parent is not None and node.parent.name == "pre"
            sections.add(str(node) if inside_pre else re.sub(r"\s+", " ", str(node)))


def _walk(root: Tag) -> Iterator[tuple[PageElement, bool]]:
    """Every node at its start (True) and end (False), without recursion."""
    from bs4.element import Tag

    stack = [(root, iter(root.contents))]
    while stack:
        parent, children = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            yield parent, False
        else:
            yield child, True
            if isinstance(child, Tag):
                stack.append((child, iter(child.contents)))


def _separator(name: str) -> str:
    if name in _PARAGRAPHS:
        return _PARAGRAPH
    if name in _BLOCKS:
        return _LINE
    # The cells of a row stay in one line.
    return " " if name in _CELLS else ""


def _normalize_space(part: DocumentPart) -> DocumentPart:
    """Normalise the space between blocks to one line break or one blank line."""
    text = re.sub(r"[ \t\xa0]+", " ", part.text)
    text = re.sub(
        rf"\s*[{_LINE}{_PARAGRAPH}][\s{_LINE}{_PARAGRAPH}]*",
        lambda run: "\n\n" if _PARAGRAPH in run.group() or "\n\n" in run.group() else "\n",
        text,
    )
    return DocumentPart(text.strip(), section=part.section)
