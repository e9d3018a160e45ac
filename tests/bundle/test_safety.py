"""A bundle may come from anybody: whatever is in it, loading ends in an answer or in a message, and
runs nothing."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.making import changed, load_classifier
from prooftune.bundle.load import load
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.errors import ProoftuneError, UsageError
from prooftune.models import adapters
from prooftune.utils.files import read_json

WRONG: list[Any] = [
    None,
    True,
    -1,
    3,
    1e400,
    "",
    "../../etc",
    "x\0y",
    [],
    ["a"],
    [[[]]],
    {},
    {"a": {"b": 1}},
    "{" * 50,
]
ATTEMPTS = {"ran": False}


class Attack:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _attacked, ("ran",)


def _attacked(name: str) -> None:
    ATTEMPTS[name] = True


@pytest.fixture
def manifest(bundle: Path) -> dict[str, Any]:
    return {**read_manifest(bundle)}


@pytest.fixture
def written(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """A copy of the bundle whose ``bundle.json`` is whatever is given: text, or a value."""
    shutil.copytree(bundle, tmp_path / "b")

    def write(content: Any) -> Path:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "b" / "bundle.json").write_text(text)
        return tmp_path / "b"

    return write


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of a JSON document, of lists the first item only."""
    result = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            result += places(inner, (*path, key))
    elif isinstance(value, list) and value:
        result += places(value[0], (*path, 0))
    return result


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    copied = json.loads(json.dumps(document))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return copied


@pytest.mark.slow
def test_every_value_of_every_wrong_type_ends_in_a_message(
    written: Callable[[Any], Path],
    manifest: dict[str, Any],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The model itself is the same every time; what is done with the facts is what counts.
    model = load_classifier(bundle).model
    monkeypatch.setattr(adapters, "load_tuned", lambda *_, **__: model)
    refused = 0
    for path in places(manifest):
        for wrong in WRONG:
            folder = written(put(manifest, path, wrong))
            try:
                load(folder).predict(["goal"], progress=False)
            except ProoftuneError as error:
                refused += 1
                assert str(error)
    assert refused > 400


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("multilabel", [], "'labels' must be one or more different names"),
        ("multilabel", ["a", "a"], "'labels' must be one or more different names"),
        ("classification", ["a"], "'labels' must be two or more different names"),
        ("classification", ["a", "a"], "'labels' must be two or more different names"),
    ],
)
def test_the_number_of_labels_is_that_of_the_task(
    written: Callable[[Any], Path],
    manifest: dict[str, Any],
    task: str,
    labels: list[str],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        read_manifest(written({**manifest, "task": task, "labels": labels}))


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_anything_at_all_in_place_of_the_facts_is_refused(
    written: Callable[[Any], Path], content: Any
) -> None:
    with pytest.raises(UsageError):
        load(
            written(json.dumps({"format": 1, **content}) if isinstance(content, dict) else content)
        )


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"format": 1, "a": ' + "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass"),
        b"\x00\xff\xfe",
        '{"format": NaN}',
        '{"format": 1' + "0" * 5000 + "}",
    ],
    ids=["lists", "in a key", "surrogate", "bytes", "nan", "long number"],
)
def test_documents_that_break_parsers_are_refused(
    bundle: Path, tmp_path: Path, content: str | bytes
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "bundle.json").write_bytes(
        content.encode() if isinstance(content, str) else content
    )
    with pytest.raises(UsageError):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    "part", ["../adapter", "/etc", "adapter/../../other", "adapter\0", ".", "tokenizer"]
)
def test_the_part_is_one_of_three_names_and_no_path(
    bundle: Path, tmp_path: Path, part: str
) -> None:
    with pytest.raises(
        UsageError, match=r"is damaged:\n  - part: Input should be 'adapter', 'model' or 'base'"
    ):
        load(changed(bundle, tmp_path / "b", part=part))


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "~/x", "a\0b", "", "pypi:../x==1#y", "a/b/c", "-x"]
)
def test_a_model_name_that_leads_nowhere_is_refused(
    bundle: Path, tmp_path: Path, manifest: dict[str, Any], name: str
) -> None:
    with pytest.raises(ProoftuneError):
        load(changed(bundle, tmp_path / "b", model={**manifest["model"], "name": name}))


@pytest.mark.parametrize(
    ("place", "protocol"),
    [
        ("adapter_model.bin", 0),
        ("adapter_model.bin", 4),
        ("tokenizer.pkl", 0),
        ("training_args.bin", 2),
        ("x.pt", 0),
        ("harmless", 2),
        ("harmless.json", 5),
    ],
)
def test_a_pickle_is_refused_and_never_read(
    bundle: Path, tmp_path: Path, place: str, protocol: int
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / place).write_bytes(pickle.dumps(Attack(), protocol))
    with pytest.raises(UsageError, match="is, or may be, a pickle, which can run code"):
        load(tmp_path / "b")
    assert not ATTEMPTS["ran"]


def test_a_pickle_under_the_name_of_safetensors_is_no_weights(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "adapter_model.safetensors").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ProoftuneError):
        load(tmp_path / "b")
    assert not ATTEMPTS["ran"]


def test_a_bundle_holds_no_pickle(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            first = path.read_bytes()[:2]
            assert first[:1] != b"\x80" or path.suffix == ".safetensors", path
            assert first != b"PK" and path.suffix in (
                ".json",
                ".jsonl",
                ".yaml",
                ".md",
                ".safetensors",
                ".jinja",
                ".model",
            ), path


def test_links_out_of_the_bundle_are_not_followed(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "b" / "extra.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=r"extra.json is a link to a place outside of the bundle"):
        load(tmp_path / "b")


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "bundle.json",
    ],
)
@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"null", b'{"peft_type": 3}', b"\x00" * 64]
)
def test_a_missing_or_damaged_file_ends_in_a_message(
    bundle: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    if content is None:
        (tmp_path / "b" / name).unlink()
    else:
        (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(ProoftuneError):
        load(tmp_path / "b").predict(["goal"], progress=False)


def test_code_of_a_strangers_model_is_not_run_unasked(
    bundle: Path, tmp_path: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(bundle, tmp_path / "b", model={**manifest["model"], "trust_remote_code": True})
    with pytest.raises(UsageError, match="may run custom code"):
        load(folder)
    monkeypatch.setenv("PROOFTUNE_TRUST_REMOTE_CODE", "1")
    assert load(folder).predict(["goal"], progress=False)
    config = read_json(folder / "tokenizer_config.json")
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    try:
        load(folder)
    except ProoftuneError as error:
        assert "could not be loaded" in str(error)
