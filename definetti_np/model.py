"""Trained models: predict with them, save them, load them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checks import as_integer, name_of, shorten
from .cores import available_cores
from .engine.workspace import Workspace
from .errors import ModelFileError
from .files.archive import MODEL, open_file, refuse_on_error, write_model
from .files.checkpoint import is_checkpoint, read_checkpoint
from .files.paths import check_parent, model_path
from .history import columns_of, read_lines, write_lines
from .kernels._jit import threads as kernel_threads
from .losses import check_loss
from .multiset import MultisetBatch
from .network import Network, check_datasets
from .provenance import check_metadata, describe_model
from .specs import function_spec, network_spec
from .summary import describe_choice, layer_table

# How much is predicted at once; a prediction does not depend on the datasets beside it.
DATASETS_AT_ONCE = 64
FEATURES_AT_ONCE = 2**25  # 128 MiB of float32


class Model:
    """A network, and how it was trained.

    Attributes
    ----------
    network
        The `Network`.
    loss
        The loss it was trained with, or "function <name>" where it was a function and the model was loaded.
    seed
        The seed of its training run.
    batches_trained
        How many batches it was trained on.
    history
        What its training has reported: arrays by name, of which ``batch`` says after which batch; empty for a model
        that `train` has not made. There are ``loss`` and ``accuracy`` of the batch, under `reuse` ``fresh_loss`` and
        ``reused_loss``, and under `validation` ``validation_loss``, ``validation_loss_error``,
        ``validation_accuracy``, ``validation_accuracy_error``; the errors are standard errors.
    info
        How it was trained: arguments of `train` that are not the default or always matter, such as ``batch_size`` and
        ``learning_rate``; ``simulator``, its name; ``date``, on which the run began, in UTC. Empty for a model that
        `train` has not made.
    metadata
        What the user gave to `train` as `metadata`; it may be changed before the model is saved.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: str | Callable,
        seed: int,
        batches_trained: int,
        history: Mapping[str, np.ndarray] | None = None,
        info: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ):
        self.network = network
        self.loss = loss
        self.seed = seed
        self.batches_trained = batches_trained
        self.history = dict(history or {})
        self.info = dict(info or {})
        self.metadata = dict(metadata or {})

    def __repr__(self) -> str:
        training = f"loss={describe_choice(self.loss)}, seed={self.seed}, batches_trained={self.batches_trained}"
        return f"Model({training}) of\n{self.network}"

    def summary(self) -> str:
        """The table of its layers, with the shape that each makes of a dataset and its number of parameters.

        A model of a network_function has a table of its parameters by name instead.
        """
        return layer_table(self.network.spec, self.network.parameters)

    def predict(self, data: Iterable[np.ndarray] | MultisetBatch, threads: int | None = None) -> np.ndarray:
        """Predict the label of each dataset.

        Parameters
        ----------
        data
            Array (B, n, W[, C]), sequence of B arrays (n, W[, C]), or MultisetBatch; B may be 0.
        threads
            Number of threads, None for every core of this process; the result does not depend on it.

        Returns
        -------
        (B, N) float32
            Posterior probabilities of a softmax network, estimates of a matmul network; what a network function
            returns, (B, M).

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the network.
        """
        threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        spec = self.network.spec
        if isinstance(data, MultisetBatch):
            sizes: Sequence[int] | np.ndarray = np.diff(data.offsets)
        else:
            data = check_datasets(data, spec.input_shape)  # all of it, before the first is computed
            sizes = [len(dataset) for dataset in data]
        predictions = [np.empty((0, *self.network.prediction_shape), self.network.dtype)]
        workspace = Workspace()
        with kernel_threads(threads):
            for start, stop in _parts(sizes, FEATURES_AT_ONCE // self.network.features_per_row):
                part = data.slice(start, stop) if isinstance(data, MultisetBatch) else data[start:stop]
                with workspace.use():
                    batch = self.network.as_batch(part, first=start)
                    predictions.append(self.network.predict_batch(batch).copy())
        return np.concatenate(predictions)

    def with_rows(self, rows: int | None) -> "Model":
        """The same model for datasets of another number of rows, or of any number for None.

        Raises
        ------
        ValueError, TypeError
            If the network does not take so many, as one with ``g=("sort",)``, which needs the number that it was
            trained with.
        """
        network = self.network.with_rows(rows)
        parts = {"history": self.history, "info": self.info, "metadata": self.metadata}
        return Model(network, loss=self.loss, seed=self.seed, batches_trained=self.batches_trained, **parts)

    def save(self, path: str | os.PathLike) -> None:
        """Write the model to `path`, with ``.npz`` added where it is missing, whole or not at all."""
        path = model_path(path, "path")
        check_parent(path, "path")
        if self.network.dtype != np.float32 or not np.isfinite(self.network.flat.weights).all():
            raise ValueError("only float32 networks with finite weights can be saved")
        description = {
            "network": self.network.spec.as_dict(),
            "loss": name_of(self.loss),
            "seed": self.seed,
            "batches_trained": self.batches_trained,
        }
        history = {"columns": list(self.history), "lines": write_lines(self.history)} if self.history else {}
        more = {"history": history, "info": self.info, "metadata": check_metadata(self.metadata)}
        description |= {name: value for name, value in more.items() if value}
        write_model(path, description, dict(self.network.parameters))


def _parts(sizes, rows_at_once: int):
    """Yield ranges of datasets that hold at most so many rows together, or one dataset."""
    start = rows = 0
    for i, size in enumerate(sizes):
        if i > start and (rows + size > rows_at_once or i - start == DATASETS_AT_ONCE):
            yield start, i
            start, rows = i, 0
        rows += size
    if len(sizes):
        yield start, len(sizes)


def load(path: str | os.PathLike, *, network_function: Callable | None = None) -> Model:
    """Read a model that `Model.save` or `train` wrote; ``.npz`` is added where it is missing.

    Of a checkpoint, ``<save_path>.checkpoint``, it reads the model that its run would give if it ended there.

    Parameters
    ----------
    path
        The file.
    network_function
        The function that was given to `train`, for a model of one: a file holds numbers, and no code.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, or not a model; or if the function is missing, or has other parameters. The
        message names file and reason.
    """
    path = model_path(path, "path")
    try:
        file = open_file(path, MODEL)
    except ModelFileError:
        if not is_checkpoint(path):
            raise
        return _model_of_checkpoint(path, network_function)
    with file as stored:
        with refuse_on_error(path, "the header describes no network"):
            header = stored.header
            seed = as_integer(header["seed"], "seed", minimum=0)
            network = _network(header["network"], stored.shapes, path, network_function, seed)
            model = Model(
                network,
                loss=_loss(header["loss"], network),
                seed=seed,
                batches_trained=as_integer(header["batches_trained"], "batches_trained", minimum=0),
                history=_history(header.get("history")),
                **{name: _dict(header.get(name, {}), name) for name in ("info", "metadata")},
            )
        for name, array in network.parameters.items():
            stored.read(name, out=array)
    return model


def _model_of_checkpoint(path: Path, network_function: Callable | None) -> Model:
    state = read_checkpoint(path)
    with refuse_on_error(path, "the header describes no network"):
        run = state.run
        shapes = {name: tuple(shape) for name, shape in run["parameters"].items()}
        network = _network(run["network"], shapes, path, network_function, run["seed"])
        history = read_lines(columns_of(run), state.summary)
        info = describe_model(run, state.state.get("started", {}))
        model = Model(
            network,
            loss=_loss(run["loss"], network),
            seed=run["seed"],
            batches_trained=state.batches,
            history=history,
            info=info,
        )
    network.flat.weights[:] = next(array for array in (state.best, state.average, state.weights) if array.size)
    return model


def _loss(name: Any, network: Network) -> str | Callable:
    return name if _is_function(name) else check_loss(name, network.spec)


def _dict(value: Any, name: str) -> dict:
    if not isinstance(value, dict):
        raise TypeError(f"{name}: {value!r}")
    return value


def _history(stored: Any) -> dict[str, np.ndarray]:
    """The history that a header holds: names of columns, and lines of numbers."""
    if stored is None:
        return {}
    columns, lines = (list(map(str, stored[name])) for name in ("columns", "lines"))
    return read_lines(columns, lines)


def _network(
    description: dict, stored_shapes: Mapping[str, tuple], path: Path, network_function: Callable | None, seed: int
) -> Network:
    """The network that a file describes, with weights of zero, if its parameters have the shapes that are stored."""
    if not isinstance(description, dict):
        raise TypeError(f"network: {description!r}")
    name = description.get("network_function")
    if name is None:
        if network_function is not None:
            raise ModelFileError(f"{path}: a model of phi_net, g and h_net, without a network_function; leave it out")
        lists = network_spec(**description)
        shapes = {name: shape for layer in lists.layers for name, shape in layer.parameter_shapes()}
        if stored_shapes != shapes:  # before it is built: a damaged description may be that of a huge one
            raise ValueError(f"the network has weights of other names or shapes: {shapes}")
        return Network.without_weights(lists, seed=seed)
    if network_function is None:
        raise ModelFileError(
            f"{path}: a model of a network_function ({shorten(str(name), 100)}), which the file does not hold; give "
            "the function that it was trained with as network_function="
        )
    shapes = {key: value for key, value in description.items() if key != "network_function"}
    spec = function_spec(**shapes, network_function=network_function)
    with refuse_on_error(path, f"network_function fails on data of the model's shapes, {shapes}"):
        network = Network.without_weights(spec, network_function, seed=seed)
    held, needed = stored_shapes, {name: array.shape for name, array in network.parameters.items()}
    differ = sorted(name for name in held.keys() | needed.keys() if held.get(name) != needed.get(name))
    if differ:
        shown = [f"{n} ({needed.get(n, 'none')} in the function, {held.get(n, 'none')} in the file)" for n in differ]
        text = shorten(", ".join(shown), 1000)
        raise ModelFileError(f"{path}: network_function has other parameters than the model: {text}")
    return network


def _is_function(loss) -> bool:
    return isinstance(loss, str) and loss.startswith("function ")


def test(
    data: Iterable[np.ndarray],
    model_path: str | os.PathLike,
    threads: int | None = None,
    *,
    network_function: Callable | None = None,
) -> np.ndarray:
    """Predict the labels of datasets with a model that `train` saved: `load` and `Model.predict`.

    Parameters
    ----------
    data
        Array (B, n, W[, C]), or sequence of arrays (n, W[, C]).
    model_path
        The `save_path` that was given to `train`.
    threads
        Number of threads, None for every core of this process.
    network_function
        The function that was given to `train`, for a model of one.

    Returns
    -------
    (B, N) float32
        Posterior probabilities of a softmax network, estimates of a matmul network; what a network function returns,
        (B, M).
    """
    return load(model_path, network_function=network_function).predict(data, threads)


test.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it in a file that imports it
