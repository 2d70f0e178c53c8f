# What type checkers and editors see of __init__.py, which loads these names on first use; a test compares the two.
from . import augment, diagnostics, layers, ops, simulators
from .diagnostics.calibration import calibrate
from .engine.parameters import Parameter
from .ensembles import Ensemble, ensemble, load_ensemble
from .errors import GenomeFileError, ModelFileError, SimulatorError
from .genomes.encoder import HaplotypeEncoder
from .genomes.haplotypes import Haplotypes
from .genomes.reader import read_haplotypes
from .genomes.scan import Scan
from .loading import load, test
from .model import Model
from .multiset import MultisetBatch
from .network import Network
from .posteriors.classes import ClassPosterior
from .posteriors.posterior import Posterior
from .simulation.fill import simulate
from .simulation.folder import Simulations
from .simulation.source import simulate_example
from .trainer import Trainer
from .training import train

__all__ = [
    "ClassPosterior",
    "Ensemble",
    "GenomeFileError",
    "HaplotypeEncoder",
    "Haplotypes",
    "Model",
    "ModelFileError",
    "MultisetBatch",
    "Network",
    "Parameter",
    "Posterior",
    "Scan",
    "Simulations",
    "SimulatorError",
    "Trainer",
    "augment",
    "calibrate",
    "diagnostics",
    "ensemble",
    "layers",
    "load",
    "load_ensemble",
    "ops",
    "read_haplotypes",
    "simulate",
    "simulate_example",
    "simulators",
    "test",
    "train",
]
__version__: str
