"""Where randomness comes from: one seed, and of it one independent stream per use."""

from typing import Any

import numpy as np

from .checks import as_integer

# The last of the three numbers of a key; the draws of examples have keys of one number or two.
_REUSE, _AUGMENT, _VALIDATION = 1, 2, 3


def check_seed(seed: Any) -> int:
    """Return the seed as an int; draw one from the operating system for None."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    return as_integer(seed, "seed", minimum=0)


def weights_rng(seed: int) -> np.random.Generator:
    """The generator of a network's initial weights."""
    return np.random.default_rng(np.random.SeedSequence(seed))


def encoder_rng(seed: np.random.SeedSequence) -> np.random.Generator:
    """The generator of what an encoder draws for an example with this seed: another stream than its simulator's.

    Its key is larger than any that the simulator gets by spawning.
    """
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 2**32 - 1)))


def example_seed(seed: int, index: int, attempt: int = 0) -> np.random.SeedSequence:
    """The seed sequence of a draw of example `index`: a function of (seed, index, draws that failed before) alone."""
    return np.random.SeedSequence(seed, spawn_key=(index, attempt) if attempt else (index,))


def validation_seed(seed: int, index: int, attempt: int = 0) -> np.random.SeedSequence:
    """The seed sequence of a draw of validation example `index`."""
    return np.random.SeedSequence(seed, spawn_key=(index, attempt, _VALIDATION))


def reuse_rng(seed: int, step: int) -> np.random.Generator:
    """The generator that draws the batch of examples that step `step` trains on again."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step, 0, _REUSE)))


def augment_rng(seed: int, step: int, place: int) -> np.random.Generator:
    """The generator of what changes the dataset at one place of the batch of a step."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(step, place, _AUGMENT)))
