"""Weight files that are missing or cut off are found before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import prooftune
from prooftune.errors import Failure, ProoftuneError, UsageError
from prooftune.models import weight_sizes
from prooftune.models.stored_tensors import StoredTensors
from prooftune.models.weight_files import check_weights
from retrieval.tiny import bert
from study.small import small_recipe
from ways_out import refused


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("damage", [cut, remove])
@pytest.mark.parametrize("kind", ["zero-shot", "tuned", "encoder", "embedding"])
def test_no_variant_is_computed_before_a_model_without_whole_weights_is_found(
    model_folders: dict[str, Path], tmp_path: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    if kind in ("encoder", "embedding"):
        folder = bert(tmp_path / "model")
    else:
        folder = copied(model_folders["llama"], tmp_path / "model")
    damage(folder)
    variants = {"majority": None, "t": {"kind": kind, "model": str(folder)}}
    values = small_recipe(folder, tmp_path / "data", variants=variants)
    if kind != "tuned":
        del values["training"], values["lora"]
    with pytest.raises(ProoftuneError) as caught:
        prooftune.run(values, tmp_path / "run")
    found = type(caught.value), str(caught.value)
    expected: tuple[type[ProoftuneError], str]
    if damage is cut:
        expected = Failure, f"variants.t.model: {folder / 'model.safetensors'} is incomplete"
    else:
        expected = UsageError, f"variants.t.model: {folder} contains no weights"
    assert found[0] is expected[0] and found[1].startswith(expected[1])
    assert not (tmp_path / "run" / "variants").exists()
    with pytest.raises(expected[0]) as caught:
        prooftune.check(values)
    assert str(caught.value) == found[1]


def test_the_file_that_is_copied_again_is_read(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(model_folders["llama"], tmp_path / "model")
    file = folder / "model.safetensors"
    # Cut in the tensors, in the header, to nothing; a pointer of Git LFS.
    for damaged in (
        file.read_bytes()[:-1],
        file.read_bytes()[:100],
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
    ):
        file.write_bytes(damaged)
        for look in (
            check_weights,
            weight_sizes.count_parameters,
            weight_sizes.layer_widths,
            lambda path: weight_sizes.weight_bytes(path, 4),
            lambda path: StoredTensors(path).__enter__(),
        ):
            with refused("is incomplete or damaged ({…}). Download or copy the file again"):
                look(folder)
    shutil.copy(model_folders["llama"] / "model.safetensors", file)
    check_weights(folder)


def test_weights_are_missing_until_they_are_copied(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(model_folders["llama"], tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "aside")
    with refused("Copy the model's weight files into the folder, or name another model; of a"):
        check_weights(folder)
    for name in ("pytorch_model.bin", "model-00001-of-00002.safetensors"):
        shutil.copy(tmp_path / "aside", folder / name)
        check_weights(folder)
    second = "model-00002-of-00002.safetensors"
    index: dict[str, Any] = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": second}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with refused("({…}). Download or copy the missing files into the folder") as caught:
        check_weights(folder)
    assert second in str(caught.value)
    shutil.copy(tmp_path / "aside", folder / second)
    check_weights(folder)


def test_weights_of_a_module_may_be_in_a_folder_of_their_own(tmp_path: Path) -> None:
    folder = bert(tmp_path / "model")
    (folder / "0_Transformer").mkdir()
    (folder / "model.safetensors").rename(folder / "0_Transformer/model.safetensors")
    check_weights(folder)
    cut(folder / "0_Transformer")
    with pytest.raises(Failure, match="incomplete"):
        check_weights(folder)
