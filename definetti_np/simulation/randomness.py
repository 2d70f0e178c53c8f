"""Whether examples are functions of their indices alone: what happens if the first ones are simulated twice."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..errors import SimulatorError
from .source import Example, ExampleSource, reproducing_line, takes_generator

MOST_TWICE = 2  # examples that are simulated twice
REASONS = (
    "Usual reasons: a generator that was made outside the simulator, or without a seed; numpy.random or random in a "
    "simulator that takes rng; the generators of torch or of a compiled function; msprime or another program without "
    "random_seed, which rng.integers(1, 2**31) gives; the order of a set of strings; the time. "
    "Take every random number from rng"
)
SILENCE = "check_randomness=False does not look"


def judge(
    source: ExampleSource, indices: Sequence[int], examples: Sequence[Example], again: Sequence[Example | None]
) -> None:
    """Compare the first batch of a run with what its first examples were when they were simulated again.

    Parameters
    ----------
    source
        What simulates an example.
    indices, examples
        The first batch.
    again
        Its first examples, simulated once more, by another process if there is one; None for one that failed.

    Raises
    ------
    SimulatorError
        If examples of different indices are equal, because the simulator does not use the randomness it is given.
    """
    differing = [
        index
        for index, one, other in zip(indices, examples, again, strict=False)
        if other is None or _content(one) != _content(other)
    ]
    first: dict[tuple, int] = {}
    equal = [
        (first[_content(example)], index)
        for index, example in (*zip(indices, examples, strict=True), *zip(indices, again, strict=False))
        if example is not None and first.setdefault(_content(example), index) != index
    ]
    if differing and equal:
        one, other = equal[0]
        raise SimulatorError(
            f"examples {one} and {other} of seed {source.seed} are equal, and example {differing[0]} is another one "
            f"when it is simulated again: processes repeat each other's random numbers. {REASONS}; {SILENCE}"
        )
    if len(first) == 1 < len(examples):
        text = (
            f"examples {indices[0]} to {indices[-1]} of seed {source.seed} are all equal: the simulator makes nothing "
            "of the randomness it is given. Perhaps it makes a generator of its own with a fixed seed, such as "
            f"numpy.random.default_rng(1). Take every random number from rng; {SILENCE}"
        )
        if source.simulator is not None and takes_generator(source.simulator):
            raise SimulatorError(text)
        warnings.warn(text, stacklevel=2)  # it may be a constant, to try something out
    if differing:
        warnings.warn(
            f"example {differing[0]} of seed {source.seed} is another one when it is simulated again, so the same seed "
            f"will not give the same model. {REASONS}. To see it, run this twice:\n"
            f"    {reproducing_line(source.seed, differing[0])}\n"
            f"(warnings.filterwarnings('ignore', 'example .* is another one') is silent; {SILENCE})",
            stacklevel=2,
        )


def _content(example: Example) -> tuple:
    return example.rows.shape, example.rows.tobytes(), example.counts.tobytes(), example.label.tobytes()
