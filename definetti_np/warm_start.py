"""Warm starts: the weights of a trained model as those that a run begins with."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files.archive import read_model
from .files.checkpoint import is_checkpoint, read_checkpoint
from .files.paths import model_path
from .provenance import seeds_of
from .specs import Spec

if TYPE_CHECKING:
    from .network import Network


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """The weights of a model, read without its network, so that simulator processes can start before Numba is loaded.

    Attributes
    ----------
    weights
        By name; or (N,) under the name "", in the order of the network's parameters, from a checkpoint.
    seeds
        The seeds whose examples they were trained on.
    """

    weights: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    @classmethod
    def checked(cls, initial: Any, spec: Spec) -> InitialWeights | None:
        """Read the weights of the argument `initial`, None for None.

        Raises
        ------
        ValueError, TypeError
            If it is no model, or one of a network with other layers; the message lists what differs.
        ModelFileError
            If it is a path, and no model can be read there.
        """
        if initial is None:
            return None
        if isinstance(initial, (str, os.PathLike)):
            network, weights, seeds = _read(model_path(initial, "initial"))
        elif hasattr(initial, "network") and hasattr(initial.network, "parameters"):
            network = initial.network.spec.as_dict()
            weights = {name: np.array(array, np.float32) for name, array in initial.network.parameters.items()}
            seeds = tuple(initial.seeds)
        else:
            raise TypeError(f"initial must be a Model, or the path of one, got {initial!r}")
        _check_layers(network, spec)
        return cls(weights, seeds)

    @property
    def digest(self) -> str:
        """The SHA-256 of the weights, by which a resumed run knows that it began with these."""
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            digest.update(name.encode() + self.weights[name].tobytes())
        return digest.hexdigest()

    def put_into(self, network: Network) -> None:
        """Give a network these weights.

        Raises
        ------
        ValueError
            If it has other parameters, as a network_function may.
        """
        if "" in self.weights:
            targets = {"": network.flat.weights}
        else:
            targets = dict(network.parameters)
        held, needed = ({name: array.shape for name, array in arrays.items()} for arrays in (self.weights, targets))
        differ = [
            f"{name or 'all'} ({needed.get(name, 'none')} here, {held.get(name, 'none')} in initial)"
            for name in sorted(held.keys() | needed.keys())
            if held.get(name) != needed.get(name)
        ]
        if differ:
            raise ValueError(f"initial: a model of other parameters: {', '.join(differ)}")
        for name, target in targets.items():
            target[...] = self.weights[name]


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray], tuple[int, ...]]:
    """The network, the weights, and the seeds of a model or checkpoint."""
    if is_checkpoint(path):
        state = read_checkpoint(path)
        weights = {"": next(a for a in (state.best, state.average, state.weights) if a.size)}
        return state.run["network"], weights, seeds_of(state.run["seed"], state.run)
    header, weights = read_model(path)
    return header["network"], weights, seeds_of(header["seed"], header.get("info"))


def _check_layers(theirs: dict, spec: Spec) -> None:
    """Raise a ValueError that lists what differs between two networks beside their numbers of rows."""
    ours, theirs = (json.loads(json.dumps(network)) for network in (spec.as_dict(), theirs))
    for network in (ours, theirs):
        network["input_shape"] = network["input_shape"][1:]
    differ = [
        f"{name}={ours.get(name)}, initial has {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differ:
        text = "; ".join(differ).replace("input_shape", "input_shape without rows")
        raise ValueError(f"initial must be a model of a network with the same layers: {text}")
