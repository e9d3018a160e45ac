"""Messages about bundles and publishing that name a way out: what they name then works."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from bundle.making import changed
from bundle.test_publish import TOKEN, put
from prooftune import recipe as recipes
from prooftune.bundle import manifest_reader, publish, save
from prooftune.bundle.inputs import to_examples
from prooftune.bundle.load import load
from prooftune.bundle.manifest_reader import read_manifest
from prooftune.bundle.publish import plan_upload
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, UsageError
from prooftune.models.text_classifier import SECTION_FILE
from prooftune.utils.files import read_json, write_json
from standins.hub import Hub, serving
from test_cli import prooftune
from ways_out import follows, names, refused


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine, for this process."""
    with serving() as served:
        served.token = TOKEN
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def uploaded(copy: Path, name: str = "me/reviews", **options: Any) -> str:
    return publish.publish(plan_upload(copy, name), **options)


@pytest.mark.slow
def test_a_login_that_may_write(hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    login = follows("run 'hf auth login', or set HF_TOKEN to a token that may write")
    with pytest.raises(Failure) as error:
        uploaded(copy)
    assert names(login, str(error.value))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with refused("Use another owner, or a token that may write"):
        uploaded(copy, "others/reviews")
    assert uploaded(copy).endswith("me/reviews")
    hub.owners = ("others",)
    assert uploaded(copy, "others/reviews").endswith("others/reviews")


@pytest.mark.slow
def test_a_name_that_is_taken(hub: Hub, copy: Path) -> None:
    uploaded(copy)
    with refused("exists already; give another name, or --update to write a new version into it"):
        uploaded(copy)
    assert uploaded(copy, "me/other")
    (copy / "new.txt").write_text("new")
    assert uploaded(copy, update=True)
    assert "new.txt" in hub.models["me/reviews"].revisions["main"]


@pytest.mark.slow
def test_a_hub_that_can_be_reached(hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = follows("nothing was published. Check the network, HF_ENDPOINT and HF_HUB_OFFLINE")
    for name, value in (("ENDPOINT", "http://127.0.0.1:9"), ("HF_HUB_OFFLINE", True)):
        with monkeypatch.context() as patch, pytest.raises(Failure) as error:
            patch.setattr(constants, name, value)
            uploaded(copy)
        assert names(message, str(error.value))
    assert uploaded(copy)


@pytest.mark.slow
def test_an_upload_that_broke_off_is_continued(
    hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, errors

    client = import_module(
        errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0]
    )  # httpx or httpx2

    def broken(error: Exception) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    hub.broken = "/commit/"
    with refused("{…} was made and is not complete, so go on with --update"):
        uploaded(copy)
    hub.broken = None
    assert uploaded(copy, update=True)
    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "create_commit", broken(OSError("no such file")))
        with refused("the upload to {…} broke off: {…}. Run the same command with --update"):
            uploaded(copy, "me/second")
    assert uploaded(copy, "me/second", update=True)
    again = follows("the connection to {…} broke off: {…}. Run the same command again{…}")
    with monkeypatch.context() as patch, pytest.raises(Failure) as error:
        patch.setattr(HfApi, "create_repo", broken(client.ConnectError("reset")))
        uploaded(copy, "me/third")
    assert names(again, str(error.value)) and "--update" not in str(error.value)
    with monkeypatch.context() as patch, pytest.raises(Failure) as error:
        patch.setattr(HfApi, "create_commit", broken(client.ConnectError("reset")))
        uploaded(copy, "me/third")
    assert str(error.value).endswith(follows(" with --update"))
    assert uploaded(copy, "me/third", update=True)


@pytest.mark.slow
def test_a_dry_run_is_followed_by_the_upload(
    hub: Hub, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prooftune(monkeypatch, "publish", str(copy), "me/reviews") == 0
    assert names(follows("Nothing was sent; add --yes to upload."), capsys.readouterr().out)
    assert "me/reviews" not in hub.models
    assert prooftune(monkeypatch, "publish", str(copy), "me/reviews", "--yes") == 0
    assert "me/reviews" in hub.models


def test_a_folder_with_weights(bundle: Path, copy: Path) -> None:
    for path in copy.glob("*.safetensors"):
        path.unlink()
    with refused("holds no *.safetensors; give a bundle, or what 'prooftune export --to merged'"):
        plan_upload(copy, "me/a")
    assert plan_upload(bundle, "me/a")


def test_notes_and_links(copy: Path, tmp_path: Path) -> None:
    (copy / "link.json").symlink_to(copy / "bundle.json")
    with refused("its target may not be meant for publication. Replace it by a copy"):
        plan_upload(copy, "me/a")
    (copy / "link.json").unlink()
    shutil.copy(copy / "bundle.json", copy / "link.json")
    assert plan_upload(copy, "me/a")
    put("notes.md", "key " + TOKEN)(copy)
    put("state.pt", "x")(copy)
    with refused("Remove them (and change a key that was in a file), then try again"):
        plan_upload(copy, "me/a")
    for name in ("notes.md", "state.pt"):
        (copy / name).unlink()
    put("golden.jsonl", '{"id": "1"}\n')(copy)
    message = follows("To leave them out, delete the file, or set bundle.golden: 0 in the recipe.")
    assert any(names(message, note) for note in plan_upload(copy, "me/a").notes)
    (copy / "golden.jsonl").unlink()
    assert not any(names(message, note) for note in plan_upload(copy, "me/a").notes)
    data = {"train": "a.csv", "text": "text", "label": "label"}
    values = {"name": "x", "data": data, "variants": ["tuned"], "bundle": {"golden": 0}}
    assert recipes.parse(values).bundle.golden == 0


def test_texts_for_each_field() -> None:
    message = follows("this bundle reads {…}; give a string{…}, not {…}")
    for fields, right, wrong in (
        (["text"], "a", 3),
        (["head", "body"], {"head": "a", "body": "b"}, "a"),
    ):
        with pytest.raises(UsageError) as error:
            to_examples([wrong], fields, "text")  # type: ignore[list-item]
        assert names(message, str(error.value))
        assert len(to_examples([right], fields, "text")) == 1
    with refused("{…} {…}: no {…} in it; it has {…}"):
        to_examples([{"head": "a", "bdy": "b"}], ["head", "body"], "text")


def test_a_name_on_the_hub(copy: Path) -> None:
    with refused("expected OWNER/NAME of letters, digits, '-', '_' and '.'"):
        plan_upload(copy, "me/my reviews")
    assert plan_upload(copy, "me/my-reviews_2.0")


def test_code_of_a_model_that_is_trusted(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_json(copy / "bundle.json")["model"]
    folder = changed(copy, tmp_path / "code", model={**model, "trust_remote_code": True})
    with refused("If you trust both, set PROOFTUNE_TRUST_REMOTE_CODE=1."):
        load(folder)
    monkeypatch.setenv("PROOFTUNE_TRUST_REMOTE_CODE", "1")
    assert load(folder)


def test_a_newer_bundle_and_a_newer_prooftune(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(copy, tmp_path / "newer", format=99)
    with refused("this Prooftune reads formats {…}. Update Prooftune."):
        read_manifest(folder)
    monkeypatch.setattr(manifest_reader, "READABLE_FORMATS", (1, 2, 99))
    assert read_manifest(folder)["format"] == 99


def test_links_are_copied_by_the_command_of_the_message(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.json").write_text("{}")
    (copy / "extra.json").symlink_to(tmp_path / "outside.json")
    with refused("If you trust the bundle, copy it with its links resolved (cp -rL).") as error:
        check_files(copy)
    command = re.search(r"\((cp .*)\)", str(error.value))
    assert command is not None
    subprocess.run([*command[1].split(), str(copy), str(tmp_path / "resolved")], check=True)
    check_files(tmp_path / "resolved")
    assert load(tmp_path / "resolved")


def test_a_variant_is_deleted_and_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "variants" / "tfidf"
    folder.mkdir(parents=True)
    result: Any = SimpleNamespace(
        folder=folder, kind="tfidf", name="tfidf",
        validation=[SimpleNamespace(id="1", log_probs=[-0.1, -2.4])],
    )  # fmt: skip
    arguments: Any = (None, None, result, None, tmp_path, tmp_path / "bundle")
    with refused("bundles of kind: {…}. Delete this folder and run the recipe again"):
        save._write_classifier(*arguments)
    shutil.rmtree(folder)
    folder.mkdir()
    write_json(folder / SECTION_FILE, {"features": "tfidf"})  # stands for the run
    with pytest.raises(TypeError):  # the study's facts, which come next
        save._write_classifier(*arguments)
    manifest: Any = {"classifier": {"features": "tfidf"}}
    stored: Any = [SimpleNamespace(id="1", log_probs=[-1.1, -0.4])]
    with refused("log-probabilities differ by up to {…} from those of the variant. Delete {…} and"):
        save._check_parity(stored, result, manifest)
    stored[0].log_probs = [-0.1, -2.4]
    save._check_parity(stored, result, manifest)
