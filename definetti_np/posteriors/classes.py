"""`ClassPosterior`: the probabilities of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SUM_TOLERANCE = 1e-6


class ClassPosterior:
    """Posterior probabilities of N classes given each of B datasets.

    Attributes
    ----------
    prob
        The probabilities, (B, N) float32.
    names
        The names of the classes.
    """

    def __init__(self, prob: np.ndarray, names: Sequence[str]):
        self.prob = prob
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.prob)

    def __repr__(self) -> str:
        return f"ClassPosterior of {', '.join(self.names)} for {len(self)} datasets"

    @property
    def most_likely(self) -> np.ndarray:
        """The number of the most probable class, (B,)."""
        return self.prob.argmax(axis=1)

    def with_prior(self, prior: Sequence[float], training_prior: Sequence[float] | None = None) -> ClassPosterior:
        """The posterior under another prior, by Bayes' rule.

        Parameters
        ----------
        prior
            The probabilities of the classes.
        training_prior
            Those in the simulations of the training; None for the same for each.

        Raises
        ------
        ValueError
            If one of them is no distribution, or gives 0 to a class that the other does not; or if a dataset has no
            probability left, because all of it was that of a class that is in neither.
        """
        number = len(self.names)
        after = check_distribution(prior, number, "prior")
        uniform = [1 / number] * number
        before = check_distribution(uniform if training_prior is None else training_prior, number, "training_prior")
        if ((after == 0) & (before > 0)).any():
            raise ValueError(
                f"prior must be positive for every class that was trained, got {prior!r}; leave a class that cannot be "
                "out of the training"
            )
        if ((before == 0) & (after > 0)).any():
            raise ValueError(f"training_prior must be positive where prior is, got {training_prior!r}")
        ratio = np.divide(after, before, out=np.zeros(number), where=before > 0)
        weights = self.prob.astype(np.float64) * ratio
        totals = weights.sum(axis=1, keepdims=True)
        if (totals == 0).any():
            raise ValueError(
                f"prior leaves dataset {int(totals.argmin())} without a class that has a probability above 0; got "
                f"{prior!r} and training_prior {training_prior!r}"
            )
        return ClassPosterior((weights / totals).astype(self.prob.dtype), self.names)


def check_distribution(values: Sequence[float], number: int, name: str) -> np.ndarray:
    """Return probabilities (N,) that sum to 1, or raise an error that names the argument."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (number,) or not (array >= 0).all() or not abs(array.sum() - 1) <= SUM_TOLERANCE:
        raise ValueError(f"{name} must be {number} probabilities, one for each class, of sum 1; got {values!r}")
    return array
