"""Permutation-invariant networks, from layer lists, h(g(Phi(x_1), ..., Phi(x_n))), or from a function."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from . import ops
from .checks import check_k
from .context import Context
from .engine.assembly import assemble_datasets
from .engine.context import compute_context
from .engine.features import RowFeatures, contiguous
from .engine.parameters import Binding, FlatParameters, Key, Tracer, binding_of
from .engine.tensor import Tensor
from .heads import HeadSpec
from .layers import Conv, Dense, Sequential
from .multiset import MultisetBatch, as_floats
from .posteriors.heads import make_head
from .posteriors.posterior import Posterior
from .seeds import check_seed, weights_rng
from .specs import LayerSpec, NetworkSpec, PoolingSpec, Spec, context_of_rows, function_spec, network_spec, shape_fits
from .summary import describe_network

ANY_NUMBER_OF_ROWS = "train with input_shape[0]=None to allow any number of rows"


class Network:
    """A network that is symmetric in the rows of a dataset (Chan et al. 2018, section 3).

    Parameters
    ----------
    input_shape
        ``(n, W)`` or ``(n, W, C)``: rows, width, channels. ``n`` may be None for any number of rows.
    output_shape
        ``(N,)``.
    phi_net
        Layers of Phi, applied to each row: ``("conv", width, channels)`` and ``("fc", nodes)``.
    g
        The symmetric function: ``("max",)``, ``("sort",)``, ``("top_k", k)`` or ``("moments", m1, m2, ...)``; or a list
        of several, whose results become channels one after another.
    h_net
        Layers applied to the pooled features, the last one ``("matmul",)``, ``("softmax",)``, or a head that describes
        a posterior of continuous labels: ``("quantiles", q1, ...)``, ``("gaussian",)``, ``("mixture", K)`` or
        ``("spline", bins)``; see docs/posteriors.md.
    context
        Numbers of the whole dataset at each position, which every row gets as further channels: a list of
        ``("distinct", w1, ...)``, ``("effective", w1, ...)``, ``("frequency",)``, ``("ld", a1, ...)``,
        ``("four_gametes", a1, ...)``, ``("moments", m1, ...)``, and functions of a dataset's distinct rows,
        ``(rows (U, W, C), counts (U,)) -> (W, k)``; see docs/context.md.
    label_range
        The lowest and the highest value of each number of a label, ``[(low, high), ...]``, of a head: by it labels are
        scaled, and a spline needs it.
    label_names
        The names of the numbers of a label, of a head.
    seed
        Seed of the initial weights; None draws one.
    dtype
        numpy.float32, or numpy.float64 to check gradients.

    Raises
    ------
    ValueError, TypeError
        If the description is not that of a network; the message names the argument.
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        output_shape: Sequence[int],
        phi_net: Sequence[Sequence],
        g: Sequence,
        h_net: Sequence[Sequence],
        *,
        context: Sequence | Context = (),
        label_range: Sequence | None = None,
        label_names: Sequence[str] | None = None,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
    ):
        checked_context = context_of_rows(context, input_shape)
        named = {"label_range": label_range, "label_names": label_names}
        spec = network_spec(input_shape, output_shape, phi_net, g, h_net, checked_context, **named)
        self._build(spec, LayerLists(spec), checked_context, seed, dtype)

    @classmethod
    def from_function(
        cls,
        input_shape: Sequence[int | None],
        output_shape: Sequence[int],
        network_function: Callable,
        *,
        context: Sequence | Context = (),
        head: Sequence | None = None,
        label_range: Sequence | None = None,
        label_names: Sequence[str] | None = None,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> "Network":
        """Make a network of a function of `ops` and `layers`; the documentation has examples.

        Parameters
        ----------
        input_shape
            ``(n, W)`` or ``(n, W, C)``: rows, width, channels. ``n`` may be None for any number of rows.
        output_shape
            ``(N,)``, the shape of a label.
        network_function
            Function of features of shape (rows, W) or (rows, W, C) that returns a Tensor (B, M). It is called here,
            on made-up data, to find its layers and Parameters in order of first use, and then once per batch. What it
            returns is what the network predicts.
        context
            As that of a `Network`: with it the features have shape (rows, W, C + K), where W without C is C = 1.
        head
            ``("quantiles", q1, ...)``, ``("gaussian",)``, ``("mixture", K)`` or ``("spline", bins)``: a posterior of
            continuous labels behind what the function returns, by a dense layer; None for none.
        label_range, label_names
            As those of a `Network`, of a head.
        seed
            Seed of the initial weights; None draws one.
        dtype
            numpy.float32, or numpy.float64 to check gradients.

        Raises
        ------
        ValueError, TypeError
            If the function fails on features of these shapes, or returns anything else.
        """
        network = cls.__new__(cls)
        checked_context = context_of_rows(context, input_shape)
        named = {"head": head, "label_range": label_range, "label_names": label_names}
        spec = function_spec(input_shape, output_shape, network_function, checked_context, **named)
        network._build(spec, network_function, checked_context, seed, dtype)
        return network

    @classmethod
    def without_weights(cls, spec: Spec, context: Context, function: Callable | None = None, *, seed: int) -> "Network":
        """Make the float32 network of a checked description and its context, and of the function where it has one.

        Its weights are zeros, to be read from a file: drawing them takes five times their memory.
        """
        network = cls.__new__(cls)
        function = function or LayerLists(cast(NetworkSpec, spec))
        network._build(spec, function, context, seed, np.float32, draws=False)
        return network

    def with_rows(self, rows: int | None) -> "Network":
        """The same network, with a copy of the weights, for another number of rows, or for any number where None."""
        shape = (rows, *self.spec.input_shape[1:])
        spec: Spec
        if isinstance(self.spec, NetworkSpec):
            spec = network_spec(**{**self.spec.as_dict(), "input_shape": shape, "context": self.context})
            function: Callable = LayerLists(spec)
        else:
            function = self.network_function
            spec = function_spec(
                **{**self.spec.as_dict(), "input_shape": shape, "network_function": function, "context": self.context}
            )
        network = type(self).__new__(type(self))
        network._build(spec, function, self.context, self.seed, self.dtype, draws=False)
        network.flat.weights[:] = self.flat.weights
        network.temperature = self.temperature
        return network

    def _build(
        self,
        spec: Spec,
        function: Callable,
        context: Context,
        seed: int | None,
        dtype: DTypeLike,
        *,
        draws: bool = True,
    ) -> None:
        context.check_functions()
        self.spec = spec
        self.temperature: float | None = None  # of a model that `calibrate` has changed
        self.head = None if spec.head is None or spec.box is None else make_head(spec.head, spec.box)
        self.context = context
        self.network_function = function
        is_behind_function = spec.head is not None and not isinstance(function, LayerLists)
        self._last = _LastLayer(spec) if is_behind_function else None
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        self.seed = check_seed(seed)
        tracer = self._trace(draws=draws)
        self.flat = FlatParameters({name: tracer.tensors[key].shape for key, name in tracer.names.items()}, self.dtype)
        if draws:
            for key, name in tracer.names.items():
                self.flat.by_name[name].array[...] = tracer.tensors[key].array

    def _trace(self, *, draws: bool = True) -> Tracer:
        """Find the parameters that the function uses and their names; draw their values, or leave them zero."""
        tracer = Tracer(weights_rng(self.seed) if draws else None, self.dtype)
        with tracer.active():
            if isinstance(self.network_function, LayerLists):
                self.network_function.declare()
                self.prediction_shape: tuple[int, ...] = self.spec.output_shape
                self.features_per_row = self.network_function.features_per_row
            else:
                prediction = self._call_on_made_up_data()
                self.prediction_shape = prediction.shape[1:] if self.head is None else self.spec.output_shape
                self.features_per_row = math.prod(self.spec.feature_shape) + tracer.features_per_row
        self._names = tracer.names
        return tracer

    def _call_on_made_up_data(self) -> Tensor:
        batch, context = made_up_batch(self.spec, self.dtype)
        try:
            with np.errstate(all="ignore"):
                return self._call(batch, context)
        except Exception as error:
            sizes = " and ".join(map(str, sorted(set(batch.dataset_sizes().tolist()))))
            row = self.spec.feature_shape if self.context else self.spec.input_shape[1:]
            error.add_note(f"network_function was called on made-up data, 2 datasets of {sizes} rows of shape {row}")
            raise

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_names"}

    def __setstate__(self, state):
        """Find the layers anew: a copy of a function may use copies of them."""
        vars(self).update(state)
        self._trace()

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """Weights and biases by name ("phi.0.weight", ...), as views; writing to them changes the network."""
        return MappingProxyType({name: p.array for name, p in self.flat.by_name.items()})

    @property
    def gradients(self) -> Mapping[str, np.ndarray]:
        """The gradients of the last step by name, as views."""
        return MappingProxyType({name: p.gradient for name, p in self.flat.by_name.items()})

    def __repr__(self) -> str:
        return describe_network(self.spec, self.parameters, seed=self.seed, dtype=self.dtype)

    def __call__(self, data: Iterable[np.ndarray] | MultisetBatch) -> np.ndarray:
        """Predict: posterior probabilities after softmax, estimates after matmul, posterior means of a head, (B, N).

        A network made of a function predicts what the function returns, (B, M). `data` is an array (B, n, W[, C]), a
        sequence of arrays (n, W[, C]), or a MultisetBatch. All of it is computed at once; `Model.predict` bounds the
        memory.
        """
        return self.predict_batch(self.as_batch(data))

    def predict_batch(self, batch: MultisetBatch) -> np.ndarray:
        """Predict from a batch that `as_batch` has made, (B, N)."""
        with np.errstate(all="ignore"):  # a probability of 0 is an underflow
            return self.predictions_of(self.compute(batch).array)

    def predictions_of(self, outputs: np.ndarray) -> np.ndarray:
        """What is predicted, (B, N), of what `compute` returns."""
        if self.head is not None:
            return self.posterior_of(outputs).mean().astype(self.dtype)
        if not self.spec.ends_in_softmax:
            return outputs
        return np.exp(outputs) if self.temperature is None else temper(outputs, self.temperature)

    def posterior_of(self, numbers: np.ndarray) -> Posterior:
        """The posterior that a head makes of what `compute` returns, (B, M)."""
        if self.head is None:
            raise ValueError(f"a network that ends in {self.spec.final_layer!r} has no head")
        own = {role: tensor.array for role, tensor in self.head_parameters().items()}
        return self.head.posterior(numbers, own, self.temperature)

    def head_parameters(self) -> Mapping[str, Tensor]:
        """The parameters of the head's own, by role."""
        roles = () if self.spec.head is None else self.spec.head.parameters
        return {role: self.flat.by_name[f"{self.spec.last_name}.{role}"] for role in roles}

    def compute(self, batch: MultisetBatch, log: list | None = None, context: np.ndarray | None = None) -> Tensor:
        """The output (B, N) as a constant; operations write what they compute of whole datasets to the log.

        context (B, W, K) is the context of the batch where it is known.
        """
        return self.apply(self._call, batch, context, dtype=batch.rows.dtype, log=log)

    @property
    def hidden_features(self) -> int | None:
        """H, the number of features of the last hidden layer; None of a network function."""
        return self.spec.layers[-1].weight_shape[0] if isinstance(self.spec, NetworkSpec) else None

    def hidden(self, batch: MultisetBatch) -> np.ndarray | None:
        """The features (B, H) of the last hidden layer; None of a network function, whose layers are not known."""
        return self.compute_with_hidden(batch)[1]

    def compute_with_hidden(self, batch: MultisetBatch) -> tuple[np.ndarray, np.ndarray | None]:
        """What `compute` gives, (B, M), and what `hidden` does."""
        lists = self.network_function
        if not isinstance(lists, LayerLists):
            return self.compute(batch).array, None
        pooled = self.apply(lambda: lists.pool(self._features(batch, None)), dtype=batch.rows.dtype)
        return self.finish_with_hidden(lists, pooled)

    def finish_with_hidden(self, lists: "LayerLists", pooled: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """h of what is pooled, and the features (B, H) of the last hidden layer."""

        def finish() -> tuple[Tensor, Tensor]:
            hidden = lists.hidden(pooled)
            return lists.answer(hidden), hidden

        out, hidden = self.apply(finish, dtype=pooled.array.dtype)
        return np.ascontiguousarray(out.array), hidden.array.reshape(len(hidden.array), -1)

    def apply(self, function: Callable, *arguments: Any, dtype: DTypeLike, log: list | None = None) -> Any:
        """Call a function of this network's layers, such as `LayerLists.pool`, with its weights as constants."""
        constants = {key: Tensor(np.asarray(self.flat.by_name[name].array, dtype)) for key, name in self._names.items()}
        with Binding(constants, log=log).active():
            return function(*arguments)

    def forward(self, batch: MultisetBatch) -> Tensor:
        """The output (B, N) as a Tensor to differentiate: log-probabilities after softmax, else estimates.

        That of a head, (B, M), is what describes its posterior.
        """
        tensors: dict[Key, Tensor] = {key: self.flat.by_name[name] for key, name in self._names.items()}
        with Binding(tensors, training=True).active() as binding:
            out = self._call(batch)
        if len(binding.used) < len(self._names):
            unused = [name for key, name in self._names.items() if key not in binding.used]
            raise ValueError(
                f"network_function changes its parameters between calls: it did not use {', '.join(unused)} this time"
            )
        return out

    def _call(self, batch: MultisetBatch, context: np.ndarray | None = None) -> Tensor:
        out = self.network_function(self._features(batch, context))
        if not isinstance(out, Tensor):
            hint = "; pool the rows first, with ops.max, ops.mean, ..." if isinstance(out, RowFeatures) else ""
            raise TypeError(f"network_function must return a Tensor (B, M), got {out!r}{hint}")
        if out.ndim != 2 or out.shape[0] != len(batch):
            raise ValueError(
                f"network_function must return a Tensor (B, M), here ({len(batch)}, M), got shape {out.shape}"
            )
        return contiguous(out if self._last is None else self._last(out))

    def _features(self, batch: MultisetBatch, context: np.ndarray | None) -> RowFeatures:
        if not self.context:
            return RowFeatures.from_batch(batch, flat=len(self.spec.input_shape) == 2)
        return RowFeatures.with_context(batch, compute_context(self.context, batch) if context is None else context)

    def as_batch(self, data: Iterable[np.ndarray] | MultisetBatch, *, first: int = 0) -> MultisetBatch:
        """Turn data into the batch the network computes on, or say what is wrong with it.

        Errors name the datasets ``data[first]``, ``data[first + 1]``, ...
        """
        if isinstance(data, MultisetBatch):
            batch = data
            if batch.rows.dtype != self.dtype:
                batch = MultisetBatch(as_floats(batch.rows, "data: rows", self.dtype), batch.counts, batch.offsets)
            if not np.isfinite(batch.rows).all():
                raise ValueError(f"data: rows must be finite in {self.dtype}")
        else:
            datasets = check_datasets(data, self.spec.input_shape, first=first)
            batch = assemble_datasets(datasets, self.dtype, first=first)
        self._check_batch(batch)
        if self.context:
            self.context.check_rows(batch.rows, lambda u: f"data[{first + batch.dataset_of(u)}]")
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
                f"data: a dataset of {sizes[sizes != rows][0]} rows, the network takes {rows}; {ANY_NUMBER_OF_ROWS}"
            )
        check_k(self.spec.fewest_rows, sizes.min(), f"data: a dataset of {sizes.min()} rows")


def temper(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities that are proportional to the powers 1 / temperature of those whose logarithms are given, (B, N)."""
    logs = log_probabilities.astype(np.float64) / temperature
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(log_probabilities.dtype)


def check_datasets(data: Any, input_shape: tuple, *, first: int = 0) -> Sequence[np.ndarray] | np.ndarray:
    """Return data as a sequence of arrays that each fit `input_shape`, or raise an error that says which does not."""
    if isinstance(data, np.ndarray) and data.ndim != len(input_shape) + 1:
        wanted = ", ".join(["datasets", *("any" if d is None else str(d) for d in input_shape)])
        hint = "; one dataset is [data]" if shape_fits(data.shape, input_shape) else ""
        raise ValueError(f"data: an array of shape {data.shape}, the network takes ({wanted}){hint}")
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
        hint = "; give list(data.values())" if isinstance(data, Mapping) else ""
        raise TypeError(f"data must be an array, arrays, or a MultisetBatch, got {type(data).__name__}{hint}")
    datasets: Sequence[Any] | np.ndarray = data if isinstance(data, (list, tuple, np.ndarray)) else list(data)
    for i, dataset in enumerate(datasets, first):
        if not isinstance(dataset, np.ndarray):
            raise TypeError(_what_is_no_array(data, i, dataset, input_shape))
        if not shape_fits(dataset.shape, input_shape):
            hint = _hint_for_rows(dataset.shape, input_shape)
            raise ValueError(f"data[{i}] has shape {dataset.shape}, the network takes {input_shape}{hint}")
    return datasets


def _what_is_no_array(data, i: int, dataset, input_shape: tuple) -> str:
    """Say how to make arrays of lists, or of a table of another library, whose items are columns or tables."""
    if hasattr(data, "__array__"):
        array = "numpy.asarray(data)"
        one = len(getattr(data, "shape", ())) == len(input_shape)
        hint = f"[{array}] if it is one dataset" if one else array
        return f"data must be a NumPy array or arrays, got {type(data).__name__}; give {hint}"
    convertible = isinstance(dataset, (list, tuple)) or hasattr(dataset, "__array__") and np.ndim(dataset)
    hint = f"; give numpy.asarray(data[{i}])" if convertible else ""
    return f"data[{i}] must be a NumPy array, got {type(dataset).__name__}{hint}"


def _hint_for_rows(shape: tuple, wanted: tuple) -> str:
    """What to do if only the number of rows does not fit."""
    if len(shape) != len(wanted) or shape[1:] != wanted[1:]:
        return ""
    if shape[0] == 0:
        return "; it has no rows"
    return f"; {ANY_NUMBER_OF_ROWS}"


class LayerLists:
    """The network function of layer lists: h(g(Phi(x)))."""

    def __init__(self, spec: NetworkSpec):
        self._specs, self._poolings, self._ends_in_softmax = spec.layers, spec.poolings, spec.ends_in_softmax
        self.features_per_row = spec.features_per_row
        self._layers = [_layer(s) for s in spec.layers]
        self._head = spec.head
        number = len(spec.phi_layers)
        self._phi, self._hidden = Sequential(self._layers[:number]), Sequential(self._layers[number:-1])

    def declare(self) -> None:
        """Use each parameter once, in order."""
        for layer, spec in zip(self._layers, self._specs, strict=True):
            layer.parameters(spec.weight_shape)
        self._use_head()

    def _use_head(self) -> None:
        """Use the parameters of a head, which are those of the last layer too."""
        if self._head is not None:
            _use_parameters(self._head, self._layers[-1])

    def __call__(self, x: RowFeatures) -> Tensor:
        """Log-probabilities or estimates (B, N)."""
        return self.finish(self.pool(x))

    @property
    def reach(self) -> int | None:
        """Over how many positions of a row a pooled position looks; None if it looks at all of them."""
        if not all(isinstance(layer, Conv) for layer in self._phi.layers):
            return None
        return 1 + sum(layer.width - 1 for layer in self._phi.layers if isinstance(layer, Conv))

    @property
    def pools_exactly(self) -> bool:
        """Whether pooling chooses values, so that it rounds nothing."""
        return all(pooling.k is not None for pooling in self._poolings)

    def pool(self, x: RowFeatures) -> Tensor:
        """g of Phi: what is pooled of the rows at each position, (B, P, C) or (B, N)."""
        features = self._phi(x)
        pooled = [_pool(features, pooling) for pooling in self._poolings]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)

    def hidden(self, pooled: Tensor) -> Tensor:
        """The features of the last hidden layer, of what is pooled."""
        return self._hidden(pooled)

    def answer(self, hidden: Tensor) -> Tensor:
        """The last layer of h: log-probabilities or estimates (B, N)."""
        out = self._layers[-1](hidden)
        self._use_head()
        return ops.log_softmax(out) if self._ends_in_softmax else out

    def finish(self, pooled: Tensor) -> Tensor:
        """h of what is pooled: log-probabilities or estimates (B, N)."""
        return self.answer(self.hidden(pooled))


class _LastLayer:
    """The dense layer between a network function and a head."""

    def __init__(self, spec: Spec):
        self._head = cast(HeadSpec, spec.head)
        self._dense = Dense(self._head.outputs, None, name=spec.last_name)

    def __call__(self, x: Tensor) -> Tensor:
        """What describes the posteriors, (B, M), of what the function returns."""
        out = self._dense(x)
        _use_parameters(self._head, self._dense)
        return out


def _use_parameters(head: HeadSpec, owner: Dense | Conv) -> None:
    """Use the parameters of a head's own, which belong to the dense layer before it."""
    for role, shape in head.parameters.items():
        binding_of(owner).tensor(owner, role, shape, functools.partial(head.draw, role))


def _pool(x: RowFeatures, pooling: PoolingSpec) -> Tensor:
    return ops.moments(x, pooling.orders) if pooling.k is None else ops.top_k(x, pooling.k)


def _layer(spec: LayerSpec) -> Conv | Dense:
    if spec.kind == "conv":
        width, _, channels = spec.weight_shape
        return Conv(width, channels, name=spec.name)
    return Dense(spec.weight_shape[-1], ops.relu if spec.kind == "fc" else None, name=spec.name)


def made_up_batch(spec: Spec, dtype: DTypeLike) -> tuple[MultisetBatch, np.ndarray]:
    """Two datasets of a few distinct random rows, for a function to be called on, and their context, (2, W, K).

    They have as many rows as the network takes; where that is any number, different ones, and large.
    """
    rng = np.random.default_rng(0)
    datasets = []
    for number in (1000, 1001) if spec.input_shape[0] is None else 2 * (spec.input_shape[0],):
        rows = rng.random((min(number, 3), *spec.row_shape)).astype(dtype)
        counts = np.ones(len(rows), np.int64)
        counts[0] += number - len(rows)
        datasets.append((rows, counts))
    context = rng.random((2, spec.row_shape[0], spec.context.channels)).astype(dtype)
    return MultisetBatch.from_distinct(datasets), context
