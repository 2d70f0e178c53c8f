"""Permutation-invariant networks from layer lists: h(g(Phi(x_1), ..., Phi(x_n)))."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from . import operations
from .assembly import assemble_datasets
from .features import RowFeatures
from .multiset import MultisetBatch
from .parameters import Parameters
from .seeds import check_seed, weights_rng
from .specs import LayerSpec, network_spec, shape_fits
from .tensor import Tensor


class Network:
    """A network that is symmetric in the rows of a dataset (Chan et al. 2018, section 3).

    Parameters
    ----------
    input_shape
        ``(n, W)`` or ``(n, W, C)``: rows, width, channels. ``n`` may be None for any number of rows.
    output_shape
        ``(N,)``.
    phi_net
        Layers of Phi, applied to each row: ``("conv", width, depth)`` and ``("fc", nodes)``.
    g
        The symmetric function: ``("max",)``, ``("sort",)``, ``("top_k", k)`` or ``("moments", m1, m2, ...)``.
    h_net
        Layers applied to the pooled features, the last one ``("matmul",)`` or ``("softmax",)``.
    seed
        Seed of the initial weights; None draws one.
    dtype
        numpy.float32, or numpy.float64 to check gradients.

    Raises
    ------
    ValueError, TypeError
        If the description is not that of a network; the message names the argument.
    """

    def __init__(self, input_shape, output_shape, phi_net, g, h_net, *, seed=None, dtype=np.float32):
        self.spec = network_spec(input_shape, output_shape, phi_net, g, h_net)
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        self.seed = check_seed(seed)
        self.flat = Parameters(self.spec.layers, self.dtype)
        self.flat.initialise(weights_rng(self.seed))

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """Weights and biases by name ("phi.0.weight", ...), as views: writing to them changes the network."""
        return MappingProxyType({name: p.array for name, p in self.flat.by_name.items()})

    @property
    def gradients(self) -> Mapping[str, np.ndarray]:
        """The gradients of the last step by name, as views."""
        return MappingProxyType({name: p.gradient for name, p in self.flat.by_name.items()})

    def __call__(self, data) -> np.ndarray:
        """Predict: posterior probabilities after softmax, estimates after matmul, (B, N).

        `data` is an array (B, n, W[, C]), a sequence of arrays (n, W[, C]), or a MultisetBatch. All of it is computed
        at once; `Model.predict` bounds the memory.
        """
        return self.predict_batch(self.as_batch(data))

    def predict_batch(self, batch: MultisetBatch) -> np.ndarray:
        """Predict from a batch that `as_batch` has made, (B, N)."""
        constants = {name: Tensor(parameter.array) for name, parameter in self.flat.by_name.items()}
        prediction = self._apply(batch, constants).array
        return np.exp(prediction) if self.spec.ends_in_softmax else prediction

    def forward(self, batch: MultisetBatch) -> Tensor:
        """The output (B, N) as a Tensor to differentiate: log-probabilities after softmax, else estimates."""
        return self._apply(batch, self.flat.by_name)

    def _apply(self, batch: MultisetBatch, parameters: Mapping[str, Tensor]) -> Tensor:
        features = RowFeatures.from_batch(batch)
        for layer in self.spec.phi_layers:
            features = _apply_layer(layer, features, parameters)
        pooling = self.spec.pooling
        if pooling.kind == "moments":
            features = operations.moments(features, pooling.orders)
        else:
            features = operations.top_k(features, pooling.k)
        for layer in self.spec.h_layers:
            features = _apply_layer(layer, features, parameters)
        return operations.log_softmax(features.values) if self.spec.ends_in_softmax else features.values

    def as_batch(self, data, *, first: int = 0) -> MultisetBatch:
        """Turn data into the batch the network computes on, or say what is wrong with it.

        Errors name the datasets ``data[first]``, ``data[first + 1]``, ...
        """
        if isinstance(data, MultisetBatch):
            batch = data
            if not np.isfinite(batch.rows).all():
                raise ValueError("data: rows must be finite")
            if batch.rows.dtype != self.dtype:
                batch = MultisetBatch(batch.rows.astype(self.dtype), batch.counts, batch.offsets)
        else:
            datasets = check_datasets(data, self.spec.input_shape, first=first)
            batch = assemble_datasets(datasets, self.dtype, first=first)
        self._check_batch(batch)
        return batch

    def _check_batch(self, batch: MultisetBatch) -> None:
        if batch.rows.shape[1:] != self.spec.row_shape:
            raise ValueError(
                f"data: rows of shape {batch.rows.shape[1:]}, the network takes rows of shape {self.spec.row_shape}"
            )
        sizes = batch.dataset_sizes()
        rows = self.spec.input_shape[0]
        if rows is not None and (sizes != rows).any():
            raise ValueError(
                f"data: a dataset of {sizes[sizes != rows][0]} rows, the network takes {rows}; "
                "train with input_shape[0]=None to allow any number"
            )
        if self.spec.pooling.kind == "top_k" and sizes.min() < self.spec.pooling.k:
            raise ValueError(
                f"data: a dataset of {sizes.min()} rows, g={self.spec.g!r} needs {self.spec.pooling.k} at least"
            )


def check_datasets(data, input_shape: tuple, *, first: int = 0) -> Sequence[np.ndarray]:
    """Return data as a sequence of arrays that each fit `input_shape`, or raise an error that says which does not."""
    if isinstance(data, np.ndarray) and data.ndim != len(input_shape) + 1:
        wanted = ", ".join(["datasets", *("any" if d is None else str(d) for d in input_shape)])
        raise ValueError(f"data: an array of shape {data.shape}, the network takes ({wanted})")
    datasets = data if isinstance(data, (list, tuple, np.ndarray)) else list(data)
    for i, dataset in enumerate(datasets, first):
        if not isinstance(dataset, np.ndarray):
            raise TypeError(f"data[{i}] must be a NumPy array, got {type(dataset).__name__}")
        if not shape_fits(dataset.shape, input_shape):
            raise ValueError(f"data[{i}] has shape {dataset.shape}, the network takes {input_shape}")
    return datasets


def _apply_layer(layer: LayerSpec, features: RowFeatures, parameters: Mapping[str, Tensor]) -> RowFeatures:
    weight, bias = parameters[f"{layer.name}.weight"], parameters[f"{layer.name}.bias"]
    if layer.kind == "conv":
        return operations.conv(features, weight, bias)
    floor = operations.RELU if layer.kind == "fc" else operations.LINEAR
    return operations.dense(features, weight, bias, floor=floor)
