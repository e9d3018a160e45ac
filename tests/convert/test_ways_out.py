"""Messages of `convert` that name a way out: the checkpoint, made as they say, is converted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convert.meta import write_checkpoint
from convert.test_convert import hide_code, lose_shard, params
from prooftune.convert.convert import convert, summary_lines
from prooftune.convert.tokenizer import convert_tokenizer
from prooftune.errors import UsageError
from ways_out import follows, names, refused

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lose_shard, follows("{…} {…} missing. Download the checkpoint again")),
        (hide_code, follows("only tensors; download it from a source that you trust")),
        (
            params(dim=None),
            follows("no number for {…}; is it the params.json of a Llama checkpoint?"),
        ),
        (
            lambda folder: (folder / "tokenizer.model").unlink(),
            follows("Meta publishes it next to the weight folders. Copy it into this folder"),
        ),
        (
            lambda folder: (folder / "params.json").unlink(),
            follows(
                "contains no params.json; give the folder that contains it, consolidated.*.pth"
            ),
        ),
    ],
)
def test_a_whole_checkpoint_from_a_source_that_is_trusted(
    tmp_path: Path, harm: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "meta"
    write_checkpoint(folder, "llama3", shards=2)
    shutil.copytree(folder, tmp_path / "source")
    harm(folder)
    with pytest.raises(UsageError) as error:
        convert(folder, tmp_path / "out")
    assert names(message, str(error.value))
    if "Copy it" in message:
        shutil.copy(tmp_path / "source" / "tokenizer.model", folder)
    elif "give the folder" in message:
        folder = tmp_path / "source"
    else:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "source", folder)
    assert convert(folder, tmp_path / "out").vocabulary > 256


@pytest.mark.slow
def test_another_folder_and_the_chat_template(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "meta", "llama3")
    (tmp_path / "taken").mkdir()
    with refused("{…} exists; choose another folder"):
        convert(tmp_path / "meta", tmp_path / "taken")
    lines = {
        chat: list(
            summary_lines(convert(tmp_path / "meta", tmp_path / str(chat), chat=chat), Path())
        )
        for chat in (None, True, False)
    }
    add = follows("neither instruct nor chat (--chat adds it).")
    omit = follows("The tokenizer has Llama's chat template (--no-chat omits it).")
    assert any(names(add, line) for line in lines[None])
    assert any(names(omit, line) for line in lines[True])
    assert any(names(add, line) for line in lines[False])


def test_the_packages_of_llama_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "meta", "llama2")

    def read() -> int:
        path = tmp_path / "meta" / "tokenizer.model"
        return convert_tokenizer(path, scaled_rope=False, chat=False, context=64).size

    for module in ("sentencepiece", "google.protobuf"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with refused("reading a SentencePiece model (Llama 2) needs {…}: pip install"):
                read()
    assert read() > 256
