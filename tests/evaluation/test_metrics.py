"""Our metrics against scikit-learn's, and the vectorised bootstrap against a plain loop."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from prooftune.evaluation.metrics import INVALID, Outcomes, confusion, measure, per_class, rates
from prooftune.evaluation.resampling import bootstrap, resample_counts


def outcomes(
    n: int = 200,
    classes: int = 5,
    seed: int = 0,
    invalid: float = 0.1,
    used: int | None = None,
    probabilities: bool = True,
) -> Outcomes:
    """Random predictions; only the first `used` labels occur as targets."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, used or classes, n)
    scores = rng.normal(size=(n, classes)) + 1.5 * (targets[:, None] == np.arange(classes))
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    predicted = np.where(rng.random(n) < invalid, INVALID, log_probs.argmax(1))
    return Outcomes(targets, predicted, log_probs if probabilities else None, classes)


@pytest.mark.failure(13)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("classes", "used", "invalid"), [(2, 2, 0.0), (5, 5, 0.1), (6, 3, 0.0), (3, 1, 0.3)]
)
def test_metrics_equal_scikit_learn(
    seed: int, classes: int, used: int | None, invalid: float
) -> None:
    o = outcomes(classes=classes, used=used, invalid=invalid, seed=seed)
    assert o.log_probs is not None
    got, by_class = measure(o)
    occurring = sorted(({*o.targets.tolist()} | {*o.predicted.tolist()}) - {INVALID})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert got["accuracy"] == pytest.approx(sk.accuracy_score(o.targets, o.predicted))
        assert got["balanced_accuracy"] == pytest.approx(
            sk.balanced_accuracy_score(o.targets, o.predicted)
        )
        assert got["mcc"] == pytest.approx(sk.matthews_corrcoef(o.targets, o.predicted))
        for average in ("macro", "weighted"):
            p, r, f, _ = sk.precision_recall_fscore_support(
                o.targets, o.predicted, labels=occurring, average=average, zero_division=0
            )
            assert [got[f"{average}_{m}"] for m in ("precision", "recall", "f1")] == pytest.approx(
                [p, r, f]
            )
        p, r, f, _ = sk.precision_recall_fscore_support(
            o.targets, o.predicted, labels=range(classes), average=None, zero_division=np.nan
        )
        for name, expected in (("precision", p), ("recall", r), ("f1", f)):
            np.testing.assert_allclose(by_class[name], expected)
    assert got["log_loss"] == pytest.approx(
        sk.log_loss(o.targets, np.exp(o.log_probs), labels=range(classes))
    )
    onehot = np.eye(classes)[o.targets]
    assert got["brier"] == pytest.approx(((np.exp(o.log_probs) - onehot) ** 2).sum(1).mean())


def test_binary_brier_is_twice_scikit_learns() -> None:
    o = outcomes(classes=2, invalid=0)
    assert o.log_probs is not None
    expected = 2 * sk.brier_score_loss(o.targets, np.exp(o.log_probs[:, 1]))
    assert measure(o)[0]["brier"] == pytest.approx(expected)


def test_calibration_error_equals_its_definition() -> None:
    o = outcomes(n=500, invalid=0)
    assert o.log_probs is not None
    confidence, right = np.exp(o.log_probs.max(1)), o.correct
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert measure(o)[0]["ece"] == pytest.approx(expected)


def test_invalid_outputs_are_wrong_and_counted_apart() -> None:
    o = Outcomes(np.array([0, 0, 1, 1]), np.array([0, INVALID, 1, INVALID]), None, 2)
    got, _ = measure(o)
    assert got["accuracy"] == 0.5
    assert got["invalid_rate"] == 0.5
    assert got["macro_precision"] == 1.0, (
        "what was answered is right: an invalid output blames no label"
    )
    assert confusion(o).tolist() == [[1, 0, 1], [0, 1, 1]]


def test_confusion_equals_scikit_learn_and_has_no_invalid_column_without_invalid_outputs() -> None:
    o = outcomes(invalid=0)
    np.testing.assert_array_equal(
        confusion(o), sk.confusion_matrix(o.targets, o.predicted, labels=range(5))
    )


def test_a_label_that_never_occurs_has_no_figures() -> None:
    o = Outcomes(np.array([0, 0, 1]), np.array([0, 1, 1]), None, 3)
    assert all(np.isnan(values[2]) for values in measure(o)[1].values())


def test_zero_probability_of_the_target_does_not_make_the_log_loss_infinite() -> None:
    o = Outcomes(np.array([0, 0]), np.array([1, 0]), np.array([[-np.inf, 0.0], [0.0, -np.inf]]), 2)
    assert measure(o)[0]["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_every_resample_equals_the_metrics_of_its_rows() -> None:
    """The matrix product against a loop that takes rows with repetition and measures them."""
    variants = [outcomes(seed=1), outcomes(seed=2, probabilities=False), outcomes(seed=3, used=2)]
    resamples, seed = 40, 7
    fast = bootstrap(variants, resamples, seed)
    for row, counts in enumerate(resample_counts(len(variants[0]), resamples, seed)):
        index = np.repeat(np.arange(len(counts)), counts.astype(int))
        for variant, drawn in zip(variants, fast, strict=True):
            log_probs = None if variant.log_probs is None else variant.log_probs[index]
            slow, slow_classes = measure(
                Outcomes(
                    variant.targets[index], variant.predicted[index], log_probs, variant.classes
                )
            )
            got = rates(drawn)
            assert set(got) == set(slow)
            for name, value in slow.items():
                assert got[name][row] == pytest.approx(value, abs=1e-12), name
            for name, values in slow_classes.items():
                np.testing.assert_allclose(per_class(drawn)[name][row], values, atol=1e-12)


def test_resamples_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from prooftune.evaluation import resampling

    whole = bootstrap([outcomes()], 30, 3)[0]
    monkeypatch.setattr(resampling, "CHUNK_BYTES", 8 * 200 * 7)
    pieces = bootstrap([outcomes()], 30, 3)[0]
    np.testing.assert_array_equal(whole.hits, pieces.hits)
    assert whole.log_loss is not None and pieces.log_loss is not None
    np.testing.assert_allclose(whole.log_loss, pieces.log_loss)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=60))
def test_shares_stay_shares(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = np.array(pairs).T
    got, by_class = measure(Outcomes(targets, predicted, None, 4))
    assert all(0 <= value <= 1 for name, value in got.items() if name != "mcc"), got
    assert -1 <= got["mcc"] <= 1
    assert got["weighted_recall"] == pytest.approx(got["accuracy"])
    assert all(((v >= 0) & (v <= 1) | np.isnan(v)).all() for v in by_class.values())
