"""The vLLM engine: batch prediction by vLLM, checked on the bundle's golden set before the first
row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prooftune.batch_predict import vllm_requests
from prooftune.batch_predict.local import PartWriter, PredictionJob, predict_block
from prooftune.batch_predict.vllm_bundles import VllmAnswerer, VllmClassifier, load
from prooftune.bundle import golden
from prooftune.bundle.golden import GoldenRow, max_new_tokens
from prooftune.bundle.manifest import GOLDEN, CommonManifest, is_encoder, is_language_model
from prooftune.bundle.manifest_reader import language_model_manifest
from prooftune.bundle.safety import check_files
from prooftune.errors import Failure, UsageError
from prooftune.exporters import diagnosis
from prooftune.exporters.check_export import METRICS
from prooftune.exporters.compare_outputs import (
    GoldenResult,
    compare_label_scores,
    compare_text,
    scores_labels,
)
from prooftune.exporters.formats import FORMATS
from prooftune.exporters.parity import Parity, ParityLimits, summarize_parity
from prooftune.utils.profiling import measure_cost
from prooftune.utils.progress import Subtask, notify, spinner

if TYPE_CHECKING:
    from rich.progress import Progress

LIMITS: ParityLimits = FORMATS["vllm"].limits
"""Limits of the check, as for ``export --to vllm``."""


def check_bundle(bundle: Path, manifest: CommonManifest) -> None:
    """Check that vLLM can predict with a bundle, and that there is something to check it on.

    Raises:
        UsageError: the bundle is of a kind that vLLM does not compute as Prooftune does, or holds
            no golden set.
    """
    if reason := unsupported_reason(manifest):
        raise UsageError(
            f"--engine vllm: {bundle} {reason}. Leave --engine out: Prooftune's own engine "
            "predicts with this bundle"
        )
    path = bundle / GOLDEN
    # An empty set would pass any check.
    if not path.is_file() or not golden.read(path):
        raise UsageError(
            f"--engine vllm: {bundle} holds no golden set ({GOLDEN}) to check vLLM's predictions "
            "on; its recipe says bundle.golden: 0, or it is older than golden sets. Leave --engine "
            "out, or run the study with bundle.golden: 64"
        )


def unsupported_reason(manifest: CommonManifest) -> str | None:
    """Why vLLM cannot predict with a bundle as Prooftune does; None if it can."""
    if is_encoder(manifest):
        return "is an encoder with a classification head, and vLLM generates with causal models"
    if not is_language_model(manifest):
        return f"({manifest['method']}) contains no language model"
    if manifest["objective"] == "head":
        return "ends in a classification head, and vLLM generates with causal models"
    if manifest["task"] == "extractive-qa":
        return (
            "answers with spans of the context: each token is chosen by constrained decoding, and "
            "'no answer' is scored as an alternative, which vLLM does not do"
        )
    if manifest["model"].get("trust_remote_code"):
        return "has a model with custom Python code, whose adapters are not merged"
    return None


def predict_blocks(job: PredictionJob, progress: Progress) -> Iterator[PartWriter]:
    """One writer per block, in order; calling it predicts the block.

    Raises:
        Failure: vLLM's outputs on the golden set differ from the bundle's beyond `LIMITS`, or vLLM
            fails.
    """
    manifest = language_model_manifest(job.bundle)
    check_files(job.bundle)
    rows = golden.read(job.bundle / GOLDEN)
    # Before the model is loaded: after a wrong prompt every comparison would be of other inputs.
    if mismatch := diagnosis.prompt(job.bundle, manifest, rows):
        raise Failure(
            f"not predicted: {job.bundle} does not render as its golden set says. {mismatch}"
        )
    with load(job.bundle, manifest) as bundle:
        check_golden(bundle, rows, LIMITS)
        for block in job.blocks():
            yield partial(predict_block, bundle, block, job, progress=Subtask(progress, len(block)))


def check_golden(
    bundle: VllmClassifier | VllmAnswerer, rows: Sequence[GoldenRow], limits: ParityLimits
) -> Parity:
    """Compare vLLM's outputs on the golden set with the bundle's.

    Args:
        bundle: computed by vLLM.
        rows: the golden set.
        limits: as for exports.

    Raises:
        Failure: the outputs miss the limits; the message has the figures.
    """
    name = f"vLLM {vllm_requests.installed_version()}"
    with spinner(f"Running {len(rows)} golden rows through {name}"), measure_cost() as cost:
        results = _golden_results(bundle, rows)
    metric = METRICS.get(bundle.manifest["task"], "F1")
    parity = summarize_parity(name, results, [], cost, 0.0, metric)
    if misses := parity.misses(limits):
        raise Failure(
            f"not predicted: on the bundle's golden set, the outputs of {name} differ from the "
            "bundle's.\n"
            + "".join(f"  - {miss}\n" for miss in misses)
            + "Leave --engine out for Prooftune's own engine. `prooftune export --to vllm` runs "
            "the same weights without vLLM: if that passes, vLLM computes something else, or "
            "rounds more (model.dtype of the recipe is its precision)."
        )
    difference = parity.mean_difference
    notify(
        f"{name}: {parity.agreement:.1%} of {parity.rows} golden rows get the bundle's output"
        + (f"; log-probabilities differ by {difference:.2g} nats" if difference is not None else "")
    )
    return parity


def _golden_results(
    bundle: VllmClassifier | VllmAnswerer, rows: Sequence[GoldenRow]
) -> list[GoldenResult]:
    manifest, prompts = bundle.manifest, [row.prompt for row in rows]
    if isinstance(bundle, VllmClassifier) and scores_labels(manifest):
        log_probs = bundle.score_prompts(prompts).log_softmax(1).numpy()
        return [
            compare_label_scores(manifest, row, values)
            for row, values in zip(rows, log_probs, strict=True)
        ]
    generated = vllm_requests.generate(
        bundle.llm, prompts, bundle.encoder.stop_token_id, max_new_tokens(manifest)
    )
    forced = vllm_requests.force_answers(bundle.llm, prompts, [row.answer_ids for row in rows])
    return [
        compare_text(manifest, row, bundle.encoder.decode_answer(output.ids).strip(), figures)
        for row, output, figures in zip(rows, generated, forced, strict=True)
    ]
