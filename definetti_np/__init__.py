"""Posterior inference from exchangeable data with neural networks, NumPy and Numba, on CPUs.

Names are loaded on first use (PEP 562), so that importing the package is quick and simulator processes never load
Numba. Type checkers and editors read __init__.pyi instead.
"""

import importlib

_MODULE_OF = {
    "ClassPosterior": "posteriors.classes",
    "Ensemble": "ensembles",
    "GenomeFileError": "errors",
    "HaplotypeEncoder": "genomes.encoder",
    "Haplotypes": "genomes.haplotypes",
    "Model": "model",
    "ModelFileError": "errors",
    "MultisetBatch": "multiset",
    "Network": "network",
    "Parameter": "engine.parameters",
    "Posterior": "posteriors.posterior",
    "Scan": "genomes.scan",
    "Simulations": "simulation.folder",
    "SimulatorError": "errors",
    "Trainer": "trainer",
    "calibrate": "diagnostics.calibration",
    "ensemble": "ensembles",
    "load": "loading",
    "load_ensemble": "ensembles",
    "read_haplotypes": "genomes.reader",
    "simulate": "simulation.fill",
    "simulate_example": "simulation.source",
    "test": "loading",
    "train": "training",
}

_MODULES = ("augment", "diagnostics", "layers", "ops", "simulators")

__all__ = sorted([*_MODULE_OF, *_MODULES])
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
