"""Reads a page as a browser would, strictly: a tag left open or closed twice is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br"}
"""Elements without an end tag, those that a report has."""
APART = {"span", "br", "dd", "p", "summary"}
"""Elements whose text is a word of its own."""


@dataclass
class Element:
    """A tag with its attributes and what it holds, in order."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self._joined().split())

    def _joined(self) -> str:
        parts = [
            c if isinstance(c, str) else f" {c._joined()} " if c.tag in APART else c._joined()
            for c in self.children
        ]
        return "".join(parts)

    def all(self, *tags: str) -> Iterator[Element]:
        """Every element below this one, in order; those of some tags if any are given."""
        for child in self.children:
            if isinstance(child, Element):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def by_id(self, name: str) -> Element:
        return next(e for e in self.all() if e.attributes.get("id") == name)

    def of_class(self, name: str) -> list[Element]:
        return [e for e in self.all() if name in e.attributes.get("class", "").split()]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            raise ValueError(f"<{tag}> has an attribute twice: {names}")
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.stack[-1].children.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.stack[-1].tag != tag:
            raise ValueError(f"</{tag}> closes <{self.stack[-1].tag}> at line {self.getpos()[0]}")
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].children.append(data)


def read(html: str) -> Element:
    """The document of a page.

    Raises:
        ValueError: the tags are not balanced, or an attribute stands twice.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    if len(reader.stack) != 1:
        raise ValueError(f"left open: {[e.tag for e in reader.stack[1:]]}")
    return reader.stack[0]


def table(page: Element, name: str) -> list[list[str]]:
    """The texts of a table's cells, header row first; its rows are of equal length."""
    return cells(page.by_id(name))


def cells(element: Element) -> list[list[str]]:
    rows = [list(row.all("th", "td")) for row in element.all("tr")]
    widths = {sum(int(cell.attributes.get("colspan", "1")) for cell in row) for row in rows}
    if len(widths) != 1:
        raise ValueError(f"rows of different lengths: {widths}")
    return [[cell.text for cell in row] for row in rows]
