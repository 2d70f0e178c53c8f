"""Read what `Model.save` and `train` have written: models, and checkpoints as models."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .checks import as_integer, shorten
from .context import Context
from .errors import ModelFileError
from .files.archive import MODEL, open_file, refuse_on_error
from .files.checkpoint import is_checkpoint, read_checkpoint
from .files.paths import model_path
from .genomes.encoder import HaplotypeEncoder
from .genomes.unusual import Sample
from .history import columns_of, read_lines
from .losses import check_loss
from .model import Model
from .network import Network
from .provenance import describe_model
from .specs import context_of_rows, function_spec, network_spec


def load(
    path: str | os.PathLike, *, network_function: Callable | None = None, context: Sequence | None = None
) -> Model:
    """Read a model that `Model.save` or `train` wrote; ``.npz`` is added where it is missing.

    Of a checkpoint, ``<save_path>.checkpoint``, it reads the model that its run would give if it ended there.

    Parameters
    ----------
    path
        The file.
    network_function
        The function that was given to `train`, for a model of one: a file holds numbers, and no code.
    context
        The context that was given to `train`, for a model whose context has functions; else the file's is enough.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, or not a model; or if a function is missing, or has other parameters, or the
        context is not the model's. The message names file and reason.
    """
    path = model_path(path, "path")
    try:
        file = open_file(path, MODEL)
    except ModelFileError:
        if not is_checkpoint(path):
            raise
        return _model_of_checkpoint(path, network_function, context)
    with file as stored:
        with refuse_on_error(path, "the header describes no network"):
            if "ensemble" in stored.header:
                raise ValueError("it is an ensemble; read it with definetti_np.load_ensemble")
            model = model_of(stored.header, stored.shapes, path, network_function, context)
        for name, array in model.network.parameters.items():
            stored.read(name, out=array)
    return model


def model_of(
    header: dict, shapes: Mapping[str, tuple], path: Path, network_function: Callable | None = None, context: Any = None
) -> Model:
    """The model that a header describes, with weights of zero, if these have the shapes that are stored."""
    seed = as_integer(header["seed"], "seed", minimum=0)
    network = _network(header["network"], shapes, path, network_function, context, seed)
    model = Model(
        network,
        loss=_loss(header["loss"], network),
        seed=seed,
        batches_trained=as_integer(header["batches_trained"], "batches_trained", minimum=0),
        history=_history(header.get("history")),
        **{name: _dict(header.get(name, {}), name) for name in ("info", "metadata")},
        encoder=None if header.get("encoder") is None else HaplotypeEncoder.from_dict(header["encoder"]),
        classes=header.get("classes"),
        sample=None if header.get("sample") is None else Sample.from_dict(header["sample"]),
    )
    model.temperature = header.get("temperature")
    model.last_check = _check_of(header)
    return model


def _model_of_checkpoint(path: Path, network_function: Callable | None, context: Any) -> Model:
    state = read_checkpoint(path)
    with refuse_on_error(path, "the header describes no network"):
        run = state.run
        shapes = {name: tuple(shape) for name, shape in run["parameters"].items()}
        network = _network(run["network"], shapes, path, network_function, context, run["seed"])
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
    is_function = isinstance(name, str) and name.startswith("function ")
    return name if is_function else check_loss(name, network.spec)


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
    description: dict,
    stored_shapes: Mapping[str, tuple],
    path: Path,
    network_function: Callable | None,
    context: Any,
    seed: int,
) -> Network:
    """The network that a file describes, with weights of zero, if its parameters have the shapes that are stored."""
    if not isinstance(description, dict):
        raise TypeError(f"network: {description!r}")
    description = {**description, "context": _context(path, description, context)}
    name = description.get("network_function")
    if name is None:
        if network_function is not None:
            raise ModelFileError(f"{path}: a model of phi_net, g and h_net, without a network_function; leave it out")
        lists = network_spec(**description)
        shapes = {name: shape for layer in lists.layers for name, shape in layer.parameter_shapes()}
        if stored_shapes != shapes:  # before it is built: a damaged description may be that of a huge one
            raise ValueError(f"the network has weights of other names or shapes: {shapes}")
        return Network.without_weights(lists, description["context"], seed=seed)
    if network_function is None:
        raise ModelFileError(
            f"{path}: a model of a network_function ({shorten(str(name), 100)}), which the file does not hold; give "
            "the function that it was trained with as network_function="
        )
    shapes = {key: description[key] for key in ("input_shape", "output_shape") if key in description}
    spec = function_spec(**{**description, "network_function": network_function})
    with refuse_on_error(path, f"network_function fails on data of the model's shapes, {shapes}"):
        network = Network.without_weights(spec, description["context"], network_function, seed=seed)
    held, needed = stored_shapes, {name: array.shape for name, array in network.parameters.items()}
    differ = sorted(name for name in held.keys() | needed.keys() if held.get(name) != needed.get(name))
    if differ:
        shown = [f"{n} ({needed.get(n, 'none')} in the function, {held.get(n, 'none')} in the file)" for n in differ]
        text = shorten(", ".join(shown), 1000)
        raise ModelFileError(f"{path}: network_function has other parameters than the model: {text}")
    return network


def _context(path, description: dict, context: Sequence | None) -> Context:
    """The context that a file describes, with the functions that the user gives again."""
    stored = context_of_rows(description.get("context", ()), description["input_shape"])
    given = stored if context is None else context_of_rows(context, description["input_shape"])
    if given != stored:
        raise ModelFileError(f"{path}: context={list(given.as_tuple())}, the model has {list(stored.as_tuple())}")
    try:
        given.check_functions()
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return given


def _check_of(header: dict) -> dict[str, Any] | None:
    """What a file says of the last check: a dict of numbers, texts and the like."""
    found = header.get("last_check")
    if found is not None and not (
        isinstance(found, dict) and not any(isinstance(v, (dict, list)) for v in found.values())
    ):
        raise TypeError("last_check is no dict of numbers")
    return found


def test(
    data: Iterable[np.ndarray],
    model_path: str | os.PathLike,
    threads: int | None = None,
    *,
    network_function: Callable | None = None,
    context: Sequence | None = None,
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
    context
        The context that was given to `train`, for a model whose context has functions.

    Returns
    -------
    (B, N) float32
        Posterior probabilities of a softmax network, estimates of a matmul network; what a network function returns,
        (B, M).
    """
    return load(model_path, network_function=network_function, context=context).predict(data, threads)


test.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it in a file that imports it
