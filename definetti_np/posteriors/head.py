"""`Head`: the last layer of a network that describes a posterior of continuous labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from .. import ops
from ..engine.tensor import Tensor
from ..heads import HeadSpec, LabelBox
from .posterior import Posterior

S = TypeVar("S", bound=HeadSpec)


class Head(ABC, Generic[S]):
    """Computes the loss and the posterior of what the last dense layer makes of each dataset, (B, M).

    Attributes
    ----------
    spec
        Its description.
    box
        The names and ranges of the labels.
    takes_temperature
        Whether its posteriors can be made wider or narrower by a temperature.
    """

    takes_temperature = True

    def __init__(self, spec: S, box: LabelBox):
        self.spec = spec
        self.box = box
        self.log_volume = float(np.log(box.width / 2).sum())  # of the box, whose sides are 2 in the units of a head

    def scale(self, labels: np.ndarray) -> np.ndarray:
        """Labels (..., N) in the units of a head: -1 and 1 are the ends of their range; without one they stay."""
        scaled = (labels.astype(np.float64) - self.box.low) / (self.box.width / 2) - 1
        return scaled.astype(labels.dtype)

    def unscale(self, labels: np.ndarray) -> np.ndarray:
        """The inverse of `scale`, in float64."""
        return self.box.low + (labels.astype(np.float64) + 1) * (self.box.width / 2)

    def loss(self, x: Tensor, labels: np.ndarray, parameters: Mapping[str, Tensor]) -> Tensor:
        """The mean loss over B datasets; see `losses`."""
        return ops.mean(self.losses(x, labels, parameters))

    @abstractmethod
    def losses(self, x: Tensor, labels: np.ndarray, parameters: Mapping[str, Tensor]) -> Tensor:
        """The loss of each dataset, (B,); x (B, M), labels (B, N), and the parameters of the head's own by role."""

    @abstractmethod
    def posterior(
        self, numbers: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float | None = None
    ) -> Posterior:
        """The posteriors that numbers (B, M) describe; they are wider where there is a temperature above 1."""

    @abstractmethod
    def log_densities(
        self, numbers: np.ndarray, labels: np.ndarray, parameters: Mapping[str, np.ndarray], temperature: float
    ) -> np.ndarray:
        """The log densities (B,) of labels (B, N) under the posteriors of a temperature, for `calibrate`."""
