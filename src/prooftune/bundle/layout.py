"""Where a bundle's files are.

Since format 2, the weights and the tokenizer are in the bundle's own folder, so that
``from_pretrained(bundle)`` of transformers and peft opens it. Format 1 (version 0.1) has them in
the subfolders ``adapter/`` or ``model/``, and ``tokenizer/``.
"""

from __future__ import annotations

from pathlib import Path

from prooftune.bundle.manifest import Manifest
from prooftune.models import loading
from prooftune.utils import package_files
from prooftune.utils.files import read_json, write_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_SUBFOLDERS_FORMAT = 1


def weights_folder(bundle: Path, manifest: Manifest) -> Path:
    """The folder of the trained weights, in the layout of peft or transformers."""
    return bundle / manifest["part"] if manifest["format"] == _SUBFOLDERS_FORMAT else bundle


def tokenizer_folder(bundle: Path, manifest: Manifest) -> Path:
    """The folder of the tokenizer's files."""
    return bundle / "tokenizer" if manifest["format"] == _SUBFOLDERS_FORMAT else bundle


def needs_local_base(name: str) -> bool:
    """Whether the base model comes from a package or a GGUF file.

    Plain transformers and peft find no such model by name: they need the converted folder.
    """
    reference = loading.ALIASES.get(name.lower(), name)
    return package_files.is_reference(reference) or Path(reference).is_file()


def write_base_reference(config: Path, name: str, revision: str | None) -> None:
    """Write a base model reference that plain peft resolves into ``adapter_config.json``.

    This is the model's hub name, or else the absolute path of its local folder.

    Args:
        config: the file.
        name, revision: of the recipe's ``model`` section.
    """
    values = read_json(config)
    is_local = needs_local_base(name) or Path(name).is_dir()
    folder = loading.resolve(name, revision) if is_local else None
    # Absolute, so that peft finds it from any working directory.
    values["base_model_name_or_path"] = str(folder.resolve()) if folder else name
    values["revision"] = None if folder else revision
    write_json(config, values)
