"""Whether posteriors can be trusted: simulation-based calibration, coverage, TARP, recovery; calibration of classes.

`check` asks a model about fresh simulations whose labels are known, `evaluate` a posterior about labels.
"""

from .check import check, evaluate
from .report import Report

__all__ = ["Report", "check", "evaluate"]
