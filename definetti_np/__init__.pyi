# What type checkers and editors see of __init__.py, which loads these names on first use; a test compares the two.
from . import augment, layers, ops
from .engine.parameters import Parameter
from .errors import ModelFileError, SimulatorError
from .model import Model, load, test
from .multiset import MultisetBatch
from .network import Network
from .simulation.source import simulate_example
from .trainer import Trainer
from .training import train

__all__ = [
    "Model",
    "ModelFileError",
    "MultisetBatch",
    "Network",
    "Parameter",
    "SimulatorError",
    "Trainer",
    "augment",
    "layers",
    "load",
    "ops",
    "simulate_example",
    "test",
    "train",
]
__version__: str
