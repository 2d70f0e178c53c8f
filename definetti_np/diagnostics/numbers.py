"""Posteriors of continuous labels against the labels.

E examples, N labels, S samples of each posterior. A rank is the place of a label among the samples of its posterior,
as a number between 0 and 1: uniform if the posteriors are right (Talts et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..posteriors.posterior import Posterior, arviz_tree
from ..posteriors.quantiles import QuantilesPosterior
from .bands import Uniformity, binomial_tails, uniformity
from .report import Report, verdict

SAMPLES = 199  # S
MASSES = (0.5, 0.8, 0.95)
LEAST_P = 0.05


@dataclass(frozen=True)
class LabelReport:
    """What a check says of one label.

    Attributes
    ----------
    coverage
        The fraction of labels in central intervals, by their mass; None where the head does not know the interval.
    sbc
        The uniformity of ranks; None for quantiles.
    correlation, r2, rmse
        Of the posterior means and the labels.
    contraction
        1 minus the mean variance of the posteriors over that of the labels; None for quantiles.
    z_mean, z_std
        Of (posterior mean - label) / posterior standard deviation; None for quantiles.
    """

    name: str
    coverage: dict[float, float | None]
    sbc: Uniformity | None
    correlation: float
    r2: float
    rmse: float
    contraction: float | None
    z_mean: float | None
    z_std: float | None


class NumbersReport(Report):
    """What a check says of posteriors of continuous labels.

    Attributes
    ----------
    labels
        A `LabelReport` for each label.
    tarp
        The uniformity of the ranks of distances from a random point (Lemos et al. 2023), of all labels together.
    ranks
        The ranks of SBC, (E, N); None for quantiles.
    log_score, log_score_error
        The mean log density at the labels and its standard error; None for quantiles.
    """

    def __init__(self, posterior: Posterior, labels: np.ndarray, seed: int | None, rng: np.random.Generator):
        super().__init__(len(labels), seed)
        truth = labels.astype(np.float64)
        self._truth, self._mean, self.names = truth, posterior.mean(), posterior.names
        self.tarp: Uniformity | None = None
        self.log_score: float | None = None
        self.ranks: np.ndarray | None = None
        self.log_score_error: float | None = None
        self._below: list[dict[float, float]] = []  # for each label the fraction below each quantile of the head
        samples = std = ranks = None
        if not isinstance(posterior, QuantilesPosterior):
            samples = posterior.sample(SAMPLES, seed=int(rng.integers(2**32)))
            std = np.maximum(samples.std(axis=1, ddof=1), 1e-300)
            ranks = _ranks(samples, truth, rng)
            self.ranks = ranks
            scores = posterior.log_prob(truth)
            self.log_score = float(scores.mean())
            self.log_score_error = float(scores.std(ddof=1) / np.sqrt(len(scores)))
            self.tarp = uniformity(tarp_ranks(samples, truth, rng))
        else:
            for i, values in enumerate(np.moveaxis(posterior.quantile(np.array(posterior.levels)), 2, 0)):
                below = (truth[:, i, None] <= values).mean(axis=0)
                self._below.append(dict(zip(posterior.levels, below.tolist(), strict=True)))
        self.labels = [self._label(posterior, i, ranks, std) for i in range(len(posterior.names))]

    def _label(self, posterior: Posterior, i: int, ranks, std) -> LabelReport:
        truth, mean = self._truth[:, i], self._mean[:, i]
        error, variance = mean - truth, truth.var()
        z = None if std is None else error / std[:, i]
        return LabelReport(
            name=posterior.names[i],
            coverage={mass: _coverage(posterior, i, mass, truth, ranks) for mass in MASSES},
            sbc=None if ranks is None else uniformity(ranks[:, i]),
            correlation=float(np.corrcoef(mean, truth)[0, 1]) if mean.std() > 0 < variance else 0.0,
            r2=float(1 - (error**2).mean() / variance) if variance > 0 else 0.0,
            rmse=float(np.sqrt((error**2).mean())),
            contraction=None if std is None or variance == 0 else float(1 - (std[:, i] ** 2).mean() / variance),
            z_mean=None if z is None else float(z.mean()),
            z_std=None if z is None else float(z.std()),
        )

    @property
    def passed(self) -> bool:
        """Whether SBC and TARP, or the fractions below quantiles, are as those of right posteriors, at 95 % for all."""
        return all(p >= LEAST_P / len(self._p_values()) for p in self._p_values().values())

    def _p_values(self) -> dict[str, float]:
        found = {f"SBC of {label.name}": label.sbc.p_value for label in self.labels if label.sbc is not None}
        if self.tarp is not None:
            found["TARP"] = self.tarp.p_value
        if found:
            return found
        return {
            f"quantile {q:g} of {label.name}": _p_of_fraction(below, q, self.examples)
            for label, fractions in zip(self.labels, self._below, strict=True)
            for q, below in fractions.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as a dict that JSON can hold."""
        return {
            "kind": "numbers",
            "examples": self.examples,
            "seed": self.seed,
            "passed": self.passed,
            "p_values": self._p_values(),
            "log_score": self.log_score,
            "log_score_error": self.log_score_error,
            "labels": {
                label.name: {
                    "coverage": {f"{mass:g}": fraction for mass, fraction in label.coverage.items()},
                    "correlation": label.correlation,
                    "r2": label.r2,
                    "rmse": label.rmse,
                    "contraction": label.contraction,
                    "z_mean": label.z_mean,
                    "z_std": label.z_std,
                }
                for label in self.labels
            },
        }

    def to_arviz(self) -> Any:
        """The ranks of SBC for ArviZ: a DataTree with the group "prior_sbc", as its package simuk makes it.

        It needs the package arviz-base, which is part of ArviZ 1; quantiles have no ranks.
        """
        if self.ranks is None:
            raise ValueError("a report of quantiles has no ranks")
        return arviz_tree("prior_sbc", {name: self.ranks[None, :, i] for i, name in enumerate(self.names)})

    def __str__(self) -> str:
        width = max(5, *(len(label.name) for label in self.labels))
        head = f"{'label':<{width}}  in 50 %  in 80 %  in 95 %   SBC p      R2    RMSE  contraction  z mean   z sd"
        lines = [f"Posteriors of {self.examples} simulations", head]
        for label in self.labels:
            cells = [f"{_text(label.coverage[mass], '.3f'):>7}" for mass in MASSES]
            cells += [
                f"{_text(None if label.sbc is None else label.sbc.p_value, '.3f'):>6}",
                f"{label.r2:>6.3f}",
                f"{label.rmse:>6.3g}",
            ]
            cells += [f"{_text(label.contraction, '.3f'):>11}", f"{_text(label.z_mean, '.3f'):>6}"]
            cells.append(f"{_text(label.z_std, '.3f'):>5}")
            lines.append("  ".join([f"{label.name:<{width}}", *cells]))
        if self.tarp is not None:
            lines.append(f"TARP, all labels together: p {self.tarp.p_value:.3f}")
            lines.append(f"mean log density at the labels: {self.log_score:.3f} +- {self.log_score_error:.3f}")
        values = self._p_values()
        which = ", ".join(name for name, p in values.items() if p < LEAST_P / len(values))
        good = "nothing departs from calibrated posteriors by more than chance (5 % for all tests together)"
        lines.append(verdict(self.passed, good if self.passed else f"not calibrated: {which}"))
        return "\n".join(lines)

    def _panels(self) -> int:
        return len(self.labels)

    def _figures(self) -> dict[str, Any]:
        figures = {"recovery": self._draw_recovery}
        if self.ranks is None:
            return figures
        return {**figures, "coverage": self._draw_coverage, "sbc": self._draw_sbc, "tarp": self._draw_tarp}

    def _draw_recovery(self, axes) -> None:
        for i, axis in enumerate(axes):
            truth, mean = self._truth[:, i], self._mean[:, i]
            axis.plot(truth, mean, ".", markersize=2)
            axis.axline((truth.mean(), truth.mean()), slope=1, color="black", linewidth=0.8)
            axis.set(title=self.names[i], xlabel="truth", ylabel="posterior mean")

    def _draw_coverage(self, axes) -> None:
        if self.ranks is not None:
            for i, axis in enumerate(axes):
                found = uniformity(
                    2 * np.abs(self.ranks[:, i] - 0.5)
                )  # the mass of the interval that reaches the label
                axis.fill_between(found.places, found.low, found.high, alpha=0.3, linewidth=0)
                axis.plot(found.places, found.fraction, color="black")
                axis.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
                axis.set(title=self.names[i], xlabel="mass of the interval", ylabel="fraction of labels in it")

    def _draw_sbc(self, axes) -> None:
        for label, axis in zip(self.labels, axes, strict=True):
            if label.sbc is not None:
                _draw_uniformity(axis, label.sbc)
            axis.set(title=label.name, xlabel="rank", ylabel="fraction below, minus rank")

    def _draw_tarp(self, axes) -> None:
        if self.tarp is not None:
            _draw_uniformity(axes[0], self.tarp)
        axes[0].set(title="TARP", xlabel="rank of the distance", ylabel="fraction below, minus rank")
        for axis in axes[1:]:
            axis.set_axis_off()


def tarp_ranks(samples: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rank of the distance of each label from a random point among those of its samples, (E,) (Lemos et al. 2023).

    The point is the label of another example, which is independent of this one. Distances are in units of the labels'
    standard deviations; samples (E, S, N), labels (E, N).
    """
    scale = np.where(labels.std(axis=0) > 0, labels.std(axis=0), 1)
    points = np.roll(labels, 1, axis=0)
    far = (((samples - points[:, None]) / scale) ** 2).sum(axis=-1)
    own = (((labels - points) / scale) ** 2).sum(axis=-1)
    return _ranks(far[..., None], own[:, None], rng)[:, 0]


def _ranks(samples: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of labels (E, N) among samples (E, S, N), between 0 and 1; exactly uniform if they are exchangeable."""
    below = (samples < labels[:, None]).sum(axis=1)
    ties = (samples == labels[:, None]).sum(axis=1)
    return (below + rng.random(labels.shape) * (ties + 1)) / (samples.shape[1] + 1)


def _coverage(posterior: Posterior, i: int, mass: float, truth: np.ndarray, ranks) -> float | None:
    if ranks is not None:
        return float((np.abs(ranks[:, i] - 0.5) <= mass / 2).mean())
    try:
        low, high = posterior.interval(mass)
    except ValueError:  # beyond the outermost quantiles
        return None
    return float(((low[:, i] <= truth) & (truth <= high[:, i])).mean())


def _p_of_fraction(fraction: float, mass: float, examples: int) -> float:
    """How often the fraction of what has a probability departs from it as much, by the binomial distribution."""
    return float(min(1, binomial_tails(examples, np.array([mass]))[0, round(fraction * examples)]))


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _draw_uniformity(axis, found: Uniformity) -> None:
    axis.fill_between(found.places, found.low - found.places, found.high - found.places, alpha=0.3, linewidth=0)
    axis.plot(found.places, found.fraction - found.places, color="black")
