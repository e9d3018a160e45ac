"""Served bundles: loaded with one copy of each base model, and found by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.classifier import Classifier, abstention_threshold, has_probabilities
from prooftune.bundle.load import load
from prooftune.bundle.manifest import is_encoder, is_language_model
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.errors import UsageError, nearest
from prooftune.serving.batching import Batcher, BatchObserver
from prooftune.serving.errors import HTTPError
from prooftune.serving.limits import Limits
from prooftune.types import HISTORY

BASE_SUFFIX = ":base"
"""Suffix of a bundle's name that selects its untuned base model."""

_SHOWN_MODELS = 8
"""Models that an error names."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A loaded bundle with its queue.

    Attributes:
        name: name in requests.
        bundle: the loaded bundle.
        batcher: queue of its model, shared by bundles of the same base model.
        created: Unix time at which the bundle was written, in seconds.
    """

    name: str
    bundle: Classifier | QuestionAnswerer
    batcher: Batcher
    created: int

    @property
    def classifies(self) -> bool:
        """Whether the task is classification, with one label per text or several."""
        return isinstance(self.bundle, Classifier)

    @property
    def several(self) -> bool:
        """Whether a text has any number of labels."""
        return isinstance(self.bundle, Classifier) and self.bundle.several

    @property
    def why_no_base_model(self) -> str | None:
        """The reason why there is no untuned model; None if there is one."""
        return why_no_base_model(self.bundle.manifest)

    @property
    def threshold(self) -> float | None:
        """Probability below which the bundle abstains, if any."""
        return abstention_threshold(self.bundle.manifest)

    @property
    def threshold_accuracy(self) -> float | None:
        """Accuracy on the study's test examples above the threshold."""
        figure = (self.bundle.manifest.get("abstention") or {}).get("accuracy")
        return None if figure is None or self.threshold is None else figure["value"]

    @property
    def probabilities(self) -> bool:
        """Whether predictions have label probabilities."""
        return self.classifies and has_probabilities(self.bundle.manifest)

    @property
    def base(self) -> str:
        """Name of the base model, or of the method of a bundle without a language model.

        Only the last part of a path, which is private to this machine.
        """
        manifest = self.bundle.manifest
        if is_encoder(manifest):
            name = manifest["encoder"]["name"]
        elif is_language_model(manifest):
            name = str(manifest["model"]["name"])
        else:
            return manifest["method"]
        return Path(name).name if name.startswith(("/", ".", "~")) or "\\" in name else name


def parse_bundle_arguments(arguments: Sequence[str]) -> dict[str, Path]:
    """Parse ``FOLDER`` or ``NAME=FOLDER`` arguments.

    Returns:
        Name -> folder. The default name is that of the folder, or of its parent if the folder is
        called ``bundle``.

    Raises:
        UsageError: a name is used twice or is invalid.
    """
    folders: dict[str, Path] = {}
    for entry in arguments:
        name, sign, folder = entry.partition("=")
        # A folder's own name may contain an equals sign.
        path = Path(folder if sign and not Path(entry).exists() else entry)
        if path == Path(entry):
            resolved = path.resolve()
            # A run's bundle is in RUN/bundle: the run's name tells bundles apart.
            name = resolved.parent.name if resolved.name == "bundle" else resolved.name
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' is not a valid model name (letters, digits, dot, dash, underscore); "
                f"give one: NAME={path}"
            )
        if name in folders:
            raise UsageError(
                f"{folders[name]} and {path} have the same name {name}; give names: NAME={path}"
            )
        folders[name] = path
    return folders


def load_bundles(
    folders: Mapping[str, Path],
    limits: Limits,
    on_batch: BatchObserver | None = None,
    threads: int | None = None,
) -> dict[str, ServedBundle]:
    """Load bundles; adapters of one base model share its weights and its queue.

    Args:
        folders: name -> bundle folder.
        limits: limits of the queues.
        on_batch: called after every batch.
        threads: CPU threads per model. Default: PyTorch's.

    Raises:
        UsageError: a folder is not a bundle.
        Failure: a base model is unavailable.
    """
    # Filled by `load`: base models by fingerprint, so that adapters of one base share its weights.
    shared: dict[str, Any] = {}
    bundles = {name: load(folder, shared) for name, folder in folders.items()}

    def compute(key: tuple[str, bool], rows: list[Any]) -> Sequence[Any]:
        return bundles[key[0]].predict(rows, progress=False, tuned=key[1])

    # By identity: bundles that share a base model share its thread, which switches adapters.
    batchers: dict[int, Batcher] = {}
    for name, bundle in bundles.items():
        if id(bundle.shared_model) not in batchers:
            # Named after the first bundle that uses the model.
            batchers[id(bundle.shared_model)] = Batcher(
                compute,
                max_queue_rows=limits.max_queue_rows,
                max_batch_size=limits.max_batch_size,
                on_batch=on_batch,
                name=name,
                on_start=partial(_set_threads, threads) if threads else None,
            )
    return {
        name: ServedBundle(
            name,
            bundle,
            batchers[id(bundle.shared_model)],
            int((folders[name] / "bundle.json").stat().st_mtime),
        )
        for name, bundle in bundles.items()
    }


def _set_threads(threads: int) -> None:
    import torch

    # In the batching thread itself, since OpenMP keeps this setting for each calling thread.
    torch.set_num_threads(threads)


def warm_up(served: Mapping[str, ServedBundle]) -> None:
    """Run every bundle once, to find missing parts at startup and spare the first client the wait.

    Raises:
        ProoftuneError: a bundle cannot predict, for example without its index's embedding model.
    """
    for entry in served.values():
        # Any text will do: the first batch compiles kernels and prepacks weights.
        inputs = dict.fromkeys(entry.bundle.fields, "warm")
        if HISTORY in inputs:
            inputs[HISTORY] = ""  # turns are JSON; none come before this question
        entry.bundle.predict([inputs], progress=False)


def find_model(
    served: Mapping[str, ServedBundle], model: str | None, classifies: bool | None = None
) -> tuple[ServedBundle, bool]:
    """Find the bundle that a request names.

    Args:
        served: bundles by name.
        model: the request's model name; None to use the only bundle of the task.
        classifies: required task: classification or question answering. Default: any.

    Returns:
        The bundle, and whether the tuned model is meant.

    Raises:
        HTTPError: the name is unknown, the bundle has another task, or no untuned model.
    """
    if model is None:
        candidates = [entry for entry in served.values() if entry.classifies == classifies]
        if len(candidates) != 1:
            purpose = "labels texts" if classifies else "answers questions"
            raise HTTPError(
                400,
                f'give "model", one of {", ".join(entry.name for entry in candidates)}'
                if candidates
                else f"no model here {purpose}",
                "model_required",
                param="model",
            )
        return candidates[0], True
    name = model.removesuffix(BASE_SUFFIX)
    if name not in served:
        shown = ", ".join(list(served)[:_SHOWN_MODELS])
        more = f" and {len(served) - _SHOWN_MODELS} more" if len(served) > _SHOWN_MODELS else ""
        raise HTTPError(
            404,
            f"no such model{nearest(name, served)}; this server has {shown}{more}. GET /v1/models "
            "describes them",
            "model_not_found",
            param="model",
        )
    entry = served[name]
    if classifies is not None and entry.classifies != classifies:
        path = "/v1/classify" if entry.classifies else "/v1/answer"
        raise HTTPError(400, f"{name} is served at {path}", "wrong_task", param="model")
    if name != model and entry.why_no_base_model is not None:
        raise HTTPError(
            404, f"{model}: {entry.why_no_base_model}", "model_not_found", param="model"
        )
    return entry, name == model
