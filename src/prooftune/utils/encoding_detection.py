"""Detection of a text's encoding, from a file or its bytes, with the doubt that remains."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# UTF-32's marks come first: the little-endian one begins with UTF-16's.
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)
_SAMPLE_BYTES = 200_000
_CHUNK = 1 << 20

_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "big5": "cp950",
}
"""Standards -> the supersets that Windows programs write under their name."""

_LIKELY = frozenset(
    (
        *(f"cp125{page}" for page in range(9)),
        *("cp874", "cp932", "cp949", "cp950", "gb18030", "euc_jp", "iso2022_jp"),
        *("koi8-r", "koi8-u", "utf-16", "utf-16-le", "utf-16-be"),
    )
)
"""Encodings that programs write by default where a language needs them."""
_MOST_LIKELY = 1.25
"""Weight of Windows' Western European code page, the commonest of all."""
_UNLIKELY = 0.5
"""Weight of all others, such as the code pages of DOS and of the first Macintosh."""
_MIN_EVIDENCE = 4
"""Bytes outside ASCII below which nothing is certain."""
_SURE = 1.5
"""How many times the score of the next different reading makes the first one certain."""


@dataclass(frozen=True, slots=True)
class EncodingGuess:
    """The encoding of a file, as far as its bytes tell.

    Attributes:
        encoding: Python's name of the most likely encoding.
        certain: whether no other encoding gives a comparably likely text.
        sample: some words with characters outside ASCII, as this encoding reads them.
        alternatives: other encodings that read the whole file, with the same words as they read
            them, most likely first; at most three.
    """

    encoding: str
    certain: bool = True
    sample: str = ""
    alternatives: tuple[tuple[str, str], ...] = ()


def detect_encoding(source: Path | bytes) -> EncodingGuess:
    """Detect a text file's encoding from a byte-order mark, UTF-8 validity or its statistics.

    Statistics are those of chardet over the lines that hold bytes outside ASCII. Of two encodings
    that fit about equally, the one that programs write by default wins. Every candidate must
    decode the whole file.

    Args:
        source: a file, or the bytes of one.
    """
    with _opened(source) as handle:
        start = handle.read(4)
    for mark, name in _BOMS:
        if start.startswith(mark):
            return EncodingGuess(name)
    utf_16 = _unmarked_utf_16(source)
    if utf_16 is not None:
        return EncodingGuess(utf_16)
    if decodes(source, "utf-8"):
        # ISO 2022-JP is plain ASCII with escape sequences.
        escaped = b"\x1b$" in _non_ascii_lines(source) and decodes(source, "iso2022_jp")
        return EncodingGuess("iso2022_jp" if escaped else "utf-8")
    if _is_damaged_utf_8(source) or mixes_utf_8(source):
        return EncodingGuess("utf-8")  # its reader says which byte is wrong
    return _by_statistics(source)


def _is_damaged_utf_8(source: Path | bytes) -> bool:
    """Whether most characters outside ASCII are valid UTF-8, and some bytes are not: another
    encoding forms valid sequences by chance only."""
    text = _non_ascii_lines(source).decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    return sum(not c.isascii() for c in text) > 4 * damaged


def mixes_utf_8(source: Path | bytes) -> bool:
    """Whether some lines with characters outside ASCII are UTF-8 and others are not, as where files
    of two encodings were appended to each other.

    In another encoding, a line of several such characters is valid UTF-8 by chance only.
    """
    valid = invalid = 0
    for line in _non_ascii_lines(source).splitlines():
        try:
            valid += not line.decode("utf-8").isascii()
        except UnicodeDecodeError:
            invalid += 1
    return invalid > 0 and valid >= max(3, (valid + invalid) // 5)


def _unmarked_utf_16(source: Path | bytes) -> str | None:
    """UTF-16 without a byte-order mark: separators and line ends leave zero bytes on one side of
    each pair, and hardly any on the other."""
    with _opened(source) as handle:
        sample = handle.read(_SAMPLE_BYTES // 2 * 2)
    high, low = sample[::2].count(0), sample[1::2].count(0)
    more, fewer = max(high, low), min(high, low)
    # One in twenty characters is ASCII in tables of any script.
    if 20 * more < len(sample) // 2 or 20 * fewer > more:
        return None
    name = "utf-16-be" if high > low else "utf-16-le"
    text = sample.decode(name, "replace")
    printable = all(c.isprintable() or c in "\t\r\n\ufeff" for c in text[:5000])
    return name if printable and decodes(source, name) else None


def decodes(source: Path | bytes, encoding: str) -> bool:
    """Whether the encoding reads the whole file without an error."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with _opened(source) as handle:
            while chunk := handle.read(_CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeError:  # UTF-16 without a byte-order mark raises no UnicodeDecodeError
        return False
    return True


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _by_statistics(source: Path | bytes) -> EncodingGuess:
    import chardet

    lines = _non_ascii_lines(source)
    scores: dict[str, float] = {}
    for candidate in chardet.detect_all(lines, ignore_threshold=True):
        name = _python_name(str(candidate["encoding"]))
        if name is not None:
            weight = _MOST_LIKELY if name == "cp1252" else 1.0 if name in _LIKELY else _UNLIKELY
            weight *= _script_weight(lines, name)
            scores[name] = max(scores.get(name, 0.0), weight * candidate["confidence"])
    ranked = [name for name in sorted(scores, key=lambda n: -scores[n]) if decodes(source, name)]
    if not ranked:  # ISO 8859-1 gives every byte a character
        return EncodingGuess("iso8859-1", certain=False, sample=_words(lines, "iso8859-1"))
    best, sample = ranked[0], _words(lines, ranked[0])
    text = lines.decode(best, "replace")
    others = [name for name in ranked[1:] if lines.decode(name, "replace") != text]
    enough = sum(byte >= 0x80 for byte in lines) >= _MIN_EVIDENCE
    certain = not others or (enough and scores[best] >= _SURE * scores[others[0]])
    shown = tuple((name, _words(lines, name)) for name in others[:3])
    return EncodingGuess(best, certain, sample, shown)


_SYMBOLS = ("Sk", "So", "Sc", "Sm", "Cc")
_ALPHABETS = ("CYRILLIC", "GREEK", "HEBREW", "ARABIC", "THAI", "ARMENIAN", "GEORGIAN")


def _script_weight(lines: bytes, encoding: str) -> float:
    """A tenth where most words with foreign letters mix them with Latin ones, as no language does:
    ``cafй`` is ``café`` in the wrong encoding; and where many have symbols or control characters
    between letters: ``płatno¶ć`` is ``płatność``."""
    text = lines[:20_000].decode(encoding, "ignore")
    foreign = mixed = symbols = 0
    for word in text.split():
        inner = word.strip("".join(c for c in word if not c.isalpha()))
        symbols += any(
            c in "¶§¡¿ˇ" or (not c.isascii() and unicodedata.category(c) in _SYMBOLS) for c in inner
        )
    for word in re.findall(r"[^\W\d_]+", text):
        if word.isascii():
            continue
        names = {unicodedata.name(letter, "").split(" ")[0] for letter in word}
        foreign += 1
        mixed += "LATIN" in names and any(script in names for script in _ALPHABETS)
    return 0.1 if 2 * mixed > foreign or 10 * symbols > foreign else 1.0


def _non_ascii_lines(source: Path | bytes) -> bytes:
    """Lines with bytes outside ASCII, up to about 200 KB; escape sequences count as such bytes."""
    sample = bytearray()
    with _opened(source) as handle:
        for line in _byte_lines(handle.read(_CHUNK), handle):
            if not line.isascii() or b"\x1b" in line:
                sample += line
                if len(sample) > _SAMPLE_BYTES:
                    break
    return bytes(sample)


def _byte_lines(first: bytes, handle: BinaryIO) -> Iterator[bytes]:
    rest = b""
    chunk = first
    while chunk:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
        if len(rest) > _CHUNK:  # a file without line ends
            yield rest
            rest = b""
        chunk = handle.read(_CHUNK)
    if rest:
        yield rest


def _python_name(name: str) -> str | None:
    try:
        python = codecs.lookup(name).name
    except LookupError:
        return None
    return _SUPERSETS.get(python, python)


def _words(lines: bytes, encoding: str) -> str:
    """The first words with characters outside ASCII, at most 60 characters."""
    text = lines[:4000].decode(encoding, "ignore")
    words = [word for word in text.replace(",", " ").split() if not word.isascii()]
    return " ".join(dict.fromkeys(words))[:60]
