"""WordNet's synonyms for METEOR, from wherever its files are on this machine; nothing is
downloaded."""

from __future__ import annotations

import io
import os
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.errors import UsageError

if TYPE_CHECKING:
    from nltk.corpus import WordNetCorpusReader

DEBIAN = Path("/usr/share/wordnet")
"""Where the Debian package ``wordnet-base`` puts the files."""

_FILES = [f"{kind}.{part}" for kind in ("index", "data") for part in ("noun", "verb", "adj", "adv")]
# WordNet 3 numbers them 00 to 44 (lexnames(5WN)).
_LEXICOGRAPHER_FILES = 45


class NoSynonyms:
    """Stands where a WordNet reader would: no word has a synonym, so METEOR matches words and stems
    only."""

    def synsets(self, word: str) -> list[Any]:
        return []


def synonyms() -> tuple[str, Any]:
    """The name of the WordNet that was found, and its reader; an empty name and `NoSynonyms` where
    there is none.

    Looked for in ``$WNSEARCHDIR`` and ``$WNHOME/dict`` (WordNet's own variables, wnintro(5WN)), in
    nltk's data, and where Debian has it.

    Raises:
        UsageError: one of the variables names a folder without WordNet's files.
    """
    return load_synonyms(os.environ.get("WNSEARCHDIR"), os.environ.get("WNHOME"))


# Reading WordNet takes seconds. The variables are arguments, so that a change of them is not
# missed.
@cache
def load_synonyms(folder: str | None, home: str | None) -> tuple[str, Any]:
    """Load WordNet from the given folders, else from nltk's data or Debian's package; cached.

    Args:
        folder: Value of ``WNSEARCHDIR``.
        home: Value of ``WNHOME``, whose folder ``dict`` is used without `folder`.

    Returns:
        The version of WordNet and its reader; an empty version and `NoSynonyms` without WordNet.

    Raises:
        UsageError: One of the folders has no WordNet files.
    """
    named = Path(folder) if folder else Path(home) / "dict" if home else None
    if named is not None and not _complete(named):
        missing = next(name for name in _FILES if not (named / name).is_file())
        raise UsageError(
            f"{'WNSEARCHDIR' if folder else 'WNHOME'} leads to {named}, where WordNet's {missing} "
            "is not. "
            "Name the folder that holds it, or unset the variable for METEOR without synonyms."
        )
    if named is None:
        try:
            return _named(_nltks_own())
        except LookupError:
            named = DEBIAN
    return _named(_reader(named)) if _complete(named) else ("", NoSynonyms())


def _named(reader: WordNetCorpusReader) -> tuple[str, Any]:
    return f"WordNet {reader.get_version()}", reader


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _nltks_own() -> Any:
    from nltk.corpus import wordnet

    # nltk loads corpora at first use; here a missing one raises LookupError at once.
    wordnet.ensure_loaded()
    return wordnet


def _reader(folder: Path) -> Any:
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        """nltk's reader of a plain WordNet folder, which lacks two files that nltk adds and
        synonyms do not need."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO(
                    # The names are not used to look up synonyms, but each data line refers to one
                    # by its number.
                    "".join(f"{i:02d}\t{i:02d}\t1\n" for i in range(_LEXICOGRAPHER_FILES))
                )
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping to another version's synsets: that would need nltk's own WordNet."""

    # nltk opens only what lies below its data path.
    nltk.data.path.append(str(folder.resolve()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(str(folder.resolve()), None)
