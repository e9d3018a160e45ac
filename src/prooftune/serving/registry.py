"""The bundles that are served: loaded with one copy of each base, found by name, each asked through
its model's batches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prooftune.bundle.base_model import why_no_base_model
from prooftune.bundle.load import Classifier, abstention_threshold, has_probabilities, load
from prooftune.bundle.qa import QuestionAnswerer
from prooftune.errors import UsageError, nearest
from prooftune.serving.batching import Batcher, BatchObserver
from prooftune.serving.errors import HTTPError
from prooftune.serving.limits import Limits

BASE = ":base"
"""What stands after a bundle's name where its untuned model is meant."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """One bundle.

    Attributes:
        name: by which it is asked for.
        bundle: loaded.
        batcher: of its model, which other bundles over the same base share.
        created: seconds since 1970 at which it was written.
    """

    name: str
    bundle: Classifier | QuestionAnswerer
    batcher: Batcher
    created: int

    @property
    def classifies(self) -> bool:
        return isinstance(self.bundle, Classifier)

    @property
    def why_no_base_model(self) -> str | None:
        return why_no_base_model(self.bundle.manifest)

    @property
    def threshold(self) -> float | None:
        """The probability below which the bundle abstains."""
        return abstention_threshold(self.bundle.manifest)

    @property
    def threshold_accuracy(self) -> float | None:
        """Accuracy on the study's test examples above the threshold."""
        figure = (self.bundle.manifest.get("abstention") or {}).get("accuracy")
        return None if figure is None or self.threshold is None else figure["value"]

    @property
    def probabilities(self) -> bool:
        return self.classifies and has_probabilities(self.bundle.manifest)

    @property
    def base(self) -> str:
        """The base model's name; of a folder its last part, since the rest is this machine's
        affair."""
        name = str(self.bundle.manifest["model"]["name"])
        return Path(name).name if name.startswith(("/", ".", "~")) or "\\" in name else name


def named(given: Sequence[str]) -> dict[str, Path]:
    """Name -> folder, of ``FOLDER`` or ``NAME=FOLDER``. A folder called ``bundle`` has the name of
    the one around it.

    Raises:
        UsageError: two have one name, or a name will not do in a request.
    """
    found: dict[str, Path] = {}
    for one in given:
        name, sign, folder = one.partition("=")
        path = Path(folder if sign and not Path(one).exists() else one)
        if path == Path(one):
            place = path.resolve()
            name = place.parent.name if place.name == "bundle" else place.name
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' will not do as a name in requests (letters, digits, dot, dash, "
                "underscore); give one: "
                f"NAME={path}"
            )
        if name in found:
            raise UsageError(
                f"{found[name]} and {path} would both be called {name}; give names: NAME={path}"
            )
        found[name] = path
    return found


def load_bundles(
    folders: Mapping[str, Path],
    limits: Limits,
    note: BatchObserver | None = None,
    threads: int | None = None,
) -> dict[str, ServedBundle]:
    """Load bundles; adapters of one base share its weights and its queue.

    Args:
        folders: name -> bundle.
        limits: of the queues.
        note: is told of every batch.
        threads: processors for each model's computations; None: as PyTorch chooses.

    Raises:
        UsageError: a folder is not a bundle.
        Failure: a base model is not there.
    """
    shared: dict[str, Any] = {}
    bundles = {name: load(folder, shared) for name, folder in folders.items()}

    def compute(key: tuple[str, bool], rows: list[Any]) -> Sequence[Any]:
        return bundles[key[0]].predict(rows, progress=False, tuned=key[1])

    batchers: dict[int, Batcher] = {}
    for name, bundle in bundles.items():
        if id(bundle.model) not in batchers:
            batchers[id(bundle.model)] = Batcher(
                compute,
                max_queue_rows=limits.max_queue_rows,
                max_batch_size=limits.max_batch_size,
                note=note,
                name=name,
                begin=partial(torch.set_num_threads, threads) if threads else None,
            )
    return {
        name: ServedBundle(
            name,
            bundle,
            batchers[id(bundle.model)],
            int((folders[name] / "bundle.json").stat().st_mtime),
        )
        for name, bundle in bundles.items()
    }


def warm_up(served: Mapping[str, ServedBundle]) -> None:
    """Ask every bundle once, so that what is missing shows at the start and the first client does
    not wait.

    Raises:
        ProoftuneError: a bundle cannot answer, for want of its index's embedding model for one.
    """
    for one in served.values():
        one.bundle.predict([dict.fromkeys(one.bundle.fields, "warm")], progress=False)


def find(
    served: Mapping[str, ServedBundle], model: str | None, classifies: bool | None = None
) -> tuple[ServedBundle, bool]:
    """The bundle that a request names, and whether it is meant as tuned.

    Args:
        served: all.
        model: as in the request; None where it names none.
        classifies: what the request needs; None: anything.

    Raises:
        Refused: there is none of that name, or it does another task, or has no untuned model.
    """
    if model is None:
        able = [one for one in served.values() if one.classifies == classifies]
        if len(able) != 1:
            what = "labels texts" if classifies else "answers questions"
            raise HTTPError(
                400,
                f'give "model": {", ".join(one.name for one in able)}'
                if able
                else f"no model here {what}",
                "model_required",
                param="model",
            )
        return able[0], True
    name = model.removesuffix(BASE)
    if name not in served:
        raise HTTPError(
            404,
            f"no such model{nearest(name, served)}; GET /v1/models lists them",
            "model_not_found",
            param="model",
        )
    one = served[name]
    if classifies is not None and one.classifies != classifies:
        path = "/v1/classify" if one.classifies else "/v1/answer"
        raise HTTPError(400, f"{name} is asked at {path}", "wrong_task", param="model")
    if name != model and one.why_no_base_model is not None:
        raise HTTPError(404, f"{model}: {one.why_no_base_model}", "model_not_found", param="model")
    return one, name == model
