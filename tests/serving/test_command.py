"""What `prooftune serve` is given: names, keys, a port; and what will not do, said before any model
is loaded."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from prooftune import serving
from prooftune.errors import Failure, UsageError
from prooftune.serving.keys import read_keys
from prooftune.serving.limits import Limits
from prooftune.serving.registry import load_bundles, parse_bundle_arguments
from prooftune.serving.server import open_listener


def test_a_bundle_has_the_name_of_its_folder_or_the_one_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/reviews/bundle").mkdir(parents=True)
    (tmp_path / "a=b").mkdir()
    assert parse_bundle_arguments(
        [str(tmp_path / "runs/reviews/bundle"), "v2=runs/other/bundle", "plain/"]
    ) == {
        "reviews": tmp_path / "runs/reviews/bundle",
        "v2": Path("runs/other/bundle"),
        "plain": Path("plain/"),
    }
    monkeypatch.chdir(tmp_path / "runs/reviews/bundle")
    assert list(parse_bundle_arguments(["."])) == ["reviews"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="'a=b' is not a valid model name"):
        parse_bundle_arguments(["a=b"])


def test_names_that_will_not_do_are_refused() -> None:
    with pytest.raises(UsageError, match="have the same name reviews; give names: NAME=b/reviews"):
        parse_bundle_arguments(["a/reviews", "b/reviews"])
    for name in ("my run", "a:base", "ünï", "-a", "a" * 101):
        with pytest.raises(UsageError, match="is not a valid model name"):
            parse_bundle_arguments([f"{name}=folder"])


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{'a' * 16}\n\n  {'b' * 16}  \n")
    monkeypatch.setenv("PROOFTUNE_API_KEYS", f"{'c' * 16}, {'d' * 16}")
    assert read_keys(file) == ["a" * 16, "b" * 16]
    assert read_keys(None) == ["c" * 16, "d" * 16]
    monkeypatch.delenv("PROOFTUNE_API_KEYS")
    assert read_keys(None) == []
    file.write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(file)
    file.write_text("a" * 16 + "\nsecret")
    with pytest.raises(UsageError, match=r"key 2 in .* is shorter than 16 characters") as short:
        read_keys(file)
    assert "secret" not in str(short.value)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_keys(tmp_path / "none")


def test_a_port_that_is_taken_and_a_folder_that_is_no_bundle_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(
            Failure, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address already in use"
        ):
            open_listener("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="is not a bundle"):
        load_bundles({"a": tmp_path}, Limits())


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(
        UsageError, match=r"serving needs uvicorn: pip install 'prooftune\[serve\]'"
    ):
        serving.check_installed()
