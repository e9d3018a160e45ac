"""Experiment trackers that ``training.report_to`` names: known, and installed?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prooftune.errors import nearest
from prooftune.preflight.findings import Finding, Options, error, note

TRACKERS: dict[str, tuple[str, str]] = {
    "azure_ml": ("is_azureml_available", "azureml-sdk"),
    "clearml": ("is_clearml_available", "clearml"),
    "codecarbon": ("is_codecarbon_available", "codecarbon"),
    "comet_ml": ("is_comet_available", "comet-ml"),
    "dagshub": ("is_dagshub_available", "dagshub"),
    "dvclive": ("is_dvclive_available", "dvclive"),
    "flyte": ("is_flytekit_available", "flytekit"),
    "kubeflow": ("is_kubeflow_available", "kubeflow"),
    "mlflow": ("is_mlflow_available", "mlflow"),
    "neptune": ("is_neptune_available", "neptune"),
    "swanlab": ("is_swanlab_available", "swanlab"),
    "tensorboard": ("is_tensorboard_available", "'prooftune[tracking]'"),
    "trackio": ("is_trackio_available", "trackio"),
    "wandb": ("is_wandb_available", "wandb"),
}
"""Tracker -> (transformers' function that looks for it, what pip installs)."""


def is_available(name: str) -> bool:
    """Whether transformers would report to this tracker here."""
    from transformers.integrations import integration_utils

    return bool(getattr(integration_utils, TRACKERS[name][0])())


def check_trackers(options: Options) -> Iterator[Finding]:
    """Findings about ``report_to``; ``all`` means all installed trackers, as in transformers."""
    key_path = options.key_path("report_to")
    names = requested(options.values.get("report_to", "none"))
    if len(names) > 1 and {"all", "none"} & set(names):
        yield error(
            key_path, f"all and none cannot be combined with others; found {', '.join(names)}"
        )
        return
    if names == ["all"]:
        from transformers.integrations import get_available_reporting_integrations

        names = get_available_reporting_integrations()
        yield note(
            key_path, f"all means here: {', '.join(names) or 'none, since none is installed'}"
        )
    for name in names:
        if name == "none":
            continue
        if name not in TRACKERS:
            yield error(
                key_path,
                f"no tracker '{name}'{nearest(name, TRACKERS)}: one of {', '.join(TRACKERS)}, "
                "all or none",
            )
        elif not is_available(name):
            yield error(
                key_path,
                f"{name} is not installed, or not set up: pip install {TRACKERS[name][1]}, or "
                "report_to: none",
            )
        elif refusal := _refusal(name):
            yield error(key_path, f"{name} cannot be loaded ({refusal}); use report_to: none")


def _refusal(name: str) -> str | None:
    """Why the tracker's callback cannot be made, although its package is there."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    try:
        INTEGRATION_TO_CALLBACK[name]()
    except Exception as refusal:  # whatever a broken installation raises
        return " ".join(str(refusal).split())[:200] or type(refusal).__name__
    return None


def requested(value: str | Sequence[str] | None) -> list[str]:
    """The names in a ``report_to``."""
    names = [value] if isinstance(value, str) else list(value or [])
    return [str(name) for name in names if name]
