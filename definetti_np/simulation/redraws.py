"""Draws that failed and were repeated: counted by reason, in the order of the examples, and limited."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ..errors import SimulatorError

NO_REDRAWS = MappingProxyType({})

ENOUGH = 200  # draws, before their fraction is judged
MOST_REASONS = 50  # counted apart; a simulator may put numbers into its reasons
OTHERS = "other reasons"


class Redraws:
    """Counts the draws that failed among the examples that a run has taken.

    Parameters
    ----------
    max_fraction
        The largest fraction of failed draws that is accepted.
    counts
        Failed draws by reason, of the part of the run before this.
    """

    def __init__(self, max_fraction: float, counts: Mapping[str, int]):
        self._max_fraction = max_fraction
        self.counts = dict(counts)

    def take(self, examples: Sequence, taken: int) -> None:
        """Count those of a batch of `Example`; `taken` is the number of examples up to its end.

        Raises
        ------
        SimulatorError
            If they have become too many.
        """
        for reason in (reason for example in examples for reason in example.redraws):
            known = reason in self.counts or len(self.counts) < MOST_REASONS
            key = reason if known else OTHERS
            self.counts[key] = self.counts.get(key, 0) + 1
        failed = sum(self.counts.values())
        if taken + failed >= ENOUGH and failed > self._max_fraction * (taken + failed):
            raise SimulatorError(
                f"{describe_redraws(self.counts, taken)}, more than max_redraw_fraction={self._max_fraction:g}; repair "
                "the simulator, or raise max_redraw_fraction if the prior may lose the parameters that it fails at"
            )


def describe_redraws(counts: Mapping[str, int], taken: int) -> str:
    """Say how many draws failed for `taken` examples, and why."""
    failed = sum(counts.values())
    most = sorted(counts.items(), key=lambda item: -item[1])[:5]
    reasons = "; ".join(f"{number} times {reason}" for reason, number in most)
    return f"{failed} of {taken + failed} draws failed and were repeated ({reasons})"
