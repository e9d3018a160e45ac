"""Tiny bundles that answer questions or end in a head, and servers over bundles."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bundle.making import LABELS, empty_scores
from prooftune import recipe
from prooftune.bundle.save import save_bundle
from prooftune.models import adapters, loading
from prooftune.retrieval.index import IndexSettings, build_index
from prooftune.serving.app import Options
from prooftune.serving.server import Service, build_service, open_listener, run
from prooftune.serving.telemetry import logger
from prooftune.tasks.prompt_encoding import Rendering
from prooftune.types import Example, Study, VariantResult
from prooftune.utils.files import write_json

DOCUMENTS = {
    "fruit.txt": "apple pear plum",
    "more.txt": "apple grape melon",
    "law.txt": "law court judge",
    "money.txt": "bank loan rate",
}


def _write(
    folder: Path,
    model: Path,
    values: dict[str, Any],
    rendering: Rendering,
    fields: list[str],
    labels: list[str],
) -> Path:
    chosen = recipe.parse(
        {
            "name": "study",
            "data": {"train": "a.jsonl"},
            "model": {"name": str(model), "dtype": "float32"},
            **values,
        }
    )
    variant, tuned = folder / "variant", chosen.variants["tuned"]
    torch.manual_seed(0)
    head = tuned.objective == "head"
    adapted = adapters.make_trainable(
        loading.load_model(model, chosen.model, labels=labels if head else None), tuned, {"r": 4}
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapters.save_tuned(adapted, variant / "trained", "lora", torch.float32)
    write_json(variant / "rendering.json", rendering.to_json())
    study = Study([], [], [Example("1", dict.fromkeys(fields, "goal"), "Sports")], labels)
    result = VariantResult(
        "tuned", "tuned", [], [], {"objective": tuned.objective, "method": "lora"}, variant
    )
    save_bundle(
        chosen,
        study,
        result,
        empty_scores(chosen, temperature=1.5),
        folder / "bundle",
    )
    return folder / "bundle"


def head_bundle(folder: Path, model: Path) -> Path:
    values = {
        "data": {"train": "a.csv", "text": "text", "label": "label"},
        "variants": {"tuned": {"objective": "head"}},
    }
    return _write(
        folder,
        model,
        values,
        Rendering("{text}", tuple(LABELS), chat=False, max_length=64),
        ["text"],
        LABELS,
    )


def reading_bundle(folder: Path, model: Path) -> Path:
    """Answers with words of a context that comes with the question."""
    values = {
        "task": "extractive-qa",
        "answering": {"no_answer": "no", "max_new_tokens": 4},
        "variants": {"tuned": None},
    }
    rendering = Rendering(
        "{context} {question}",
        (),
        chat=False,
        max_length=64,
        answer_tokens=4,
        windowed="context",
        overlap=8,
    )
    return _write(folder, model, values, rendering, ["question", "context"], [])


def searching_bundle(folder: Path, model: Path, embedding: Path) -> Path:
    """Answers with passages of its own documents."""
    documents = folder / "documents"
    documents.mkdir(parents=True)
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text, "utf-8")
    build_index(
        str(documents),
        folder / "index",
        IndexSettings(embedding=str(embedding), chunk_words=8, overlap_words=0),
        folder,
    )
    values = {
        "task": "free-text-qa",
        "answering": {"max_new_tokens": 6},
        "variants": {"tuned": {"context": "retrieved"}},
        "retrieval": {"documents": str(documents), "embedding": str(embedding), "passages": 3},
    }
    rendering = Rendering("{context} {question}", (), chat=False, max_length=96, answer_tokens=6)
    return _write(folder, model, values, rendering, ["question"], [])


@dataclass(frozen=True, slots=True)
class Live:
    """A server that is running.

    Attributes:
        url: without a slash at its end.
        service: what answers.
        written: what it logs.
    """

    url: str
    service: Service
    written: io.StringIO

    def lines(self, count: int = 0) -> list[dict[str, Any]]:
        """The log's lines, once there are `count`: a line is written after the reply is sent."""
        end = time.monotonic() + 30
        while self.written.getvalue().count("\n") < count and time.monotonic() < end:
            time.sleep(0.01)
        return [json.loads(line) for line in self.written.getvalue().splitlines()]


@contextmanager
def live(bundles: Mapping[str, Path], options: Options | None = None) -> Iterator[Live]:
    """A server over these bundles on a free port of this machine, in a thread."""
    written = io.StringIO()
    options = replace(options or Options(), log=logger(written))
    listener = open_listener("127.0.0.1", 0)
    service = build_service(dict(bundles), options)
    listener.listen(
        2048
    )  # so that who connects before the thread runs is kept waiting, and not refused
    thread = threading.Thread(target=run, args=(service, listener, options))
    thread.start()
    try:
        yield Live(f"http://127.0.0.1:{listener.getsockname()[1]}", service, written)
    finally:
        service.activity.ready = False
        thread.join()
        service.close()
