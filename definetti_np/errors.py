"""The errors that are the package's own; bad arguments raise ValueError and TypeError."""

from pathlib import Path
from typing import Any


class SimulatorError(RuntimeError):
    """A simulator raised, returned something unusable, or its process died.

    `reason` is the failure in one line where the example may be drawn again, else None.
    """

    reason: str | None = None


class NotFiniteError(ValueError):
    """An array holds NaN or infinite values."""


class NoDatasetError(ValueError):
    """A simulation has too few SNPs around its centre for the encoder."""


class ModelFileError(ValueError):
    """A file is not a model that this version can read, or cannot be read at all."""


class NotSavedError(OSError):
    """A model was trained, but cannot be written to its file.

    `model` is the model, and `place` the file in another folder that it was written to instead, None if there is none.
    """

    model: Any = None
    place: Path | None = None


class GenomeFileError(ValueError):
    """A VCF, BCF, BED or tree sequence file that cannot be read, or does not hold what is asked for.

    The message names the file, and the line where there is one.
    """
