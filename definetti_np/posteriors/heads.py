"""The heads by name."""

from ..heads import HeadSpec, LabelBox
from .head import Head
from .mixture import MixtureHead
from .quantiles import QuantilesHead
from .spline import SplineHead

HEADS: dict[str, type[Head]] = {
    "quantiles": QuantilesHead,
    "gaussian": MixtureHead,
    "mixture": MixtureHead,
    "spline": SplineHead,
}


def make_head(spec: HeadSpec, box: LabelBox) -> Head:
    """What computes the loss and the posterior of a head."""
    return HEADS[spec.kind](spec, box)
