"""Posterior probabilities of classes against the classes. E examples, N classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..posteriors.classes import ClassPosterior
from .report import Report, verdict

BINS = 10  # of probabilities
LEAST_PROBABILITY = 1e-12  # in logarithms
LEAST_P = 0.05
WIDEST_CONFUSION = 60  # characters of a line
SIMULATIONS = 1000  # of labels that the probabilities make


@dataclass(frozen=True)
class Reliability:
    """What became of probabilities, in bins: how many, their mean, the fraction that was true, its 95 % interval."""

    count: np.ndarray
    mean: np.ndarray
    fraction: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def calibration_error(self) -> float:
        """The mean distance of probability and fraction, by the number in each bin: the expected calibration error."""
        total = self.count.sum()
        return float((self.count * np.abs(self.mean - self.fraction)).sum() / total) if total else 0.0


def reliability(probabilities: np.ndarray, hits: np.ndarray) -> Reliability:
    """Sort probabilities (E,) into bins, and count how many of the hits (E,), True or False, are in each."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    some = np.maximum(count, 1)
    mean = np.bincount(bins, probabilities, BINS) / some
    fraction = np.bincount(bins, hits, BINS) / some
    middle = (fraction + 1.92 / some) / (1 + 3.84 / some)  # Wilson's interval
    half = 1.96 * np.sqrt(fraction * (1 - fraction) / some + 0.9604 / some**2) / (1 + 3.84 / some)
    return Reliability(count, mean, fraction, middle - half, middle + half)


def _p_of_error(probabilities: np.ndarray, error: float, rng: np.random.Generator) -> float:
    """How often hits that probabilities (E,) make have a calibration error as large."""
    chance = np.array(
        [
            reliability(probabilities, rng.random(len(probabilities)) < probabilities).calibration_error
            for _ in range(SIMULATIONS)
        ]
    )
    return float((1 + (chance >= error).sum()) / (1 + SIMULATIONS))


def roc(scores: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """False and true positive rates at all thresholds, and the area below; NaN where there is only one kind."""
    positives, negatives = hits.sum(), (~hits).sum()
    if not positives or not negatives:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # ties count together
    true = np.append(0, np.cumsum(hits[order])[last]) / positives
    false = np.append(0, np.cumsum(~hits[order])[last]) / negatives
    return false, true, float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())


class ClassesReport(Report):
    """What a check says of posterior probabilities of classes.

    Attributes
    ----------
    accuracy, brier, log_score, log_score_error
        The fraction whose most probable class is true; the mean summed squared error; the mean log probability of the
        true class, and its standard error.
    calibration_error
        The expected calibration error of the most probable class.
    p_value
        How often probabilities that are right have a calibration error as large.
    p_values_by_class
        The same of each class: a shift from one class to another need not show in the most probable class.
    confusion
        (N, N): how many examples of each class (rows) were given each class (columns).
    overall, by_class
        The `Reliability` of the most probable class, and of each class.
    area
        The area below the ROC curve of each class against the others, (N,).
    """

    def __init__(self, posterior: ClassPosterior, labels: np.ndarray, seed: int | None, rng: np.random.Generator):
        super().__init__(len(labels), seed)
        prob = posterior.prob.astype(np.float64)
        truth, number = labels.argmax(axis=1), prob.shape[1]
        one_hot = np.eye(number)[truth]
        self.names = posterior.names
        self.confusion = np.bincount(truth * number + posterior.most_likely, minlength=number**2).reshape(
            number, number
        )
        self.accuracy = float(np.trace(self.confusion) / self.examples)
        self.brier = float(((prob - one_hot) ** 2).sum(axis=1).mean())
        self.brier_by_class = ((prob - one_hot) ** 2).mean(axis=0)
        scores = np.log(np.maximum(prob[np.arange(len(truth)), truth], LEAST_PROBABILITY))
        self.log_score = float(scores.mean())
        self.log_score_error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
        self.log_score_by_class = [
            float(scores[truth == k].mean()) if (truth == k).any() else None for k in range(number)
        ]
        confidence = prob.max(axis=1)
        self.overall = reliability(confidence, posterior.most_likely == truth)
        self.calibration_error = self.overall.calibration_error
        self.p_value = _p_of_error(confidence, self.calibration_error, rng)
        self.by_class = [reliability(prob[:, k], truth == k) for k in range(number)]
        errors = [found.calibration_error for found in self.by_class]
        self.p_values_by_class = [_p_of_error(prob[:, k], errors[k], rng) for k in range(number)]
        self._curves = [roc(prob[:, k], truth == k) for k in range(number)]
        self.area = np.array([area for _, _, area in self._curves])

    @property
    def passed(self) -> bool:
        """Whether no calibration error, overall or of a class, is larger than by chance, at 95 % for all of them."""
        p_values = [self.p_value, *self.p_values_by_class]
        return min(p_values) >= LEAST_P / len(p_values)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as a dict that JSON can hold."""
        return {
            "kind": "classes",
            "examples": self.examples,
            "seed": self.seed,
            "passed": self.passed,
            "accuracy": self.accuracy,
            "calibration_error": self.calibration_error,
            "p_value": self.p_value,
            "brier": self.brier,
            "log_score": self.log_score,
            "log_score_error": self.log_score_error,
            "confusion": self.confusion.tolist(),
            "reliability": _as_dict(self.overall),
            "classes": {
                name: {
                    "calibration_error": self.by_class[k].calibration_error,
                    "p_value": self.p_values_by_class[k],
                    "brier": float(self.brier_by_class[k]),
                    "log_score": self.log_score_by_class[k],
                    "area": None if np.isnan(self.area[k]) else float(self.area[k]),
                    "reliability": _as_dict(self.by_class[k]),
                }
                for k, name in enumerate(self.names)
            },
        }

    def __str__(self) -> str:
        width = max(7, *map(len, self.names))
        given_to = "   given " + "  ".join(self.names)
        shows_confusion = len(given_to) <= WIDEST_CONFUSION  # else it would not fit on a screen
        lines = [
            f"Posterior probabilities of {self.examples} simulations",
            f"accuracy {self.accuracy:.4f}   Brier {self.brier:.4f}   "
            f"log score {self.log_score:.4f} +- {self.log_score_error:.4f}",
            f"expected calibration error {self.calibration_error:.4f} (p {self.p_value:.3f})",
            f"{'class':<{width}}  calibration error      p   Brier  log score  ROC area"
            + (given_to if shows_confusion else ""),
        ]
        for k, name in enumerate(self.names):
            score = self.log_score_by_class[k]
            cells = f"{self.by_class[k].calibration_error:>17.4f}  {self.p_values_by_class[k]:.3f}  "
            cells += f"{self.brier_by_class[k]:.4f}  "
            cells += f"{'-' if score is None else f'{score:.4f}':>9}  {self.area[k]:>8.4f}"
            given = [f"{n:>{len(other)}}" for n, other in zip(self.confusion[k], self.names, strict=True)]
            lines.append(f"{name:<{width}}  {cells}{' ' * 9 + '  '.join(given) if shows_confusion else ''}")
        good = "no departure from calibrated probabilities by more than chance (5 %)"
        bad = "the probabilities are not calibrated; see definetti_np.calibrate"
        lines.append(verdict(self.passed, good if self.passed else bad))
        return "\n".join(lines)

    def _panels(self) -> int:
        return len(self.names)

    def _figures(self) -> dict[str, Any]:
        return {"reliability": self._draw_reliability, "roc": self._draw_roc}

    def _draw_reliability(self, axes) -> None:
        for k, axis in enumerate(axes):
            found = self.by_class[k]
            some = found.count > 0
            bars = np.abs(np.stack([found.low, found.high]) - found.fraction)[:, some]
            axis.errorbar(found.mean[some], found.fraction[some], yerr=bars, fmt="o")
            axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
            axis.set(title=self.names[k], xlabel="probability", ylabel="fraction")

    def _draw_roc(self, axes) -> None:
        for k, axis in enumerate(axes):
            false, true, area = self._curves[k]
            axis.plot(false, true)
            axis.set(title=f"{self.names[k]}: {area:.3f}", xlabel="false positive rate", ylabel="true positive rate")


def _as_dict(found: Reliability) -> dict[str, list]:
    return {name: getattr(found, name).tolist() for name in ("count", "mean", "fraction", "low", "high")}
