"""`Ensemble`: models whose posteriors are averaged, because one alone tends to be too sure (Hermans et al. 2022)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .errors import ModelFileError
from .files.archive import MODEL, open_file, refuse_on_error, write_model
from .files.paths import check_parent, model_path
from .loading import load, model_of
from .model import Model
from .network import Network
from .predictor import Predictor

MOST_MEMBERS = 1000


class Ensemble(Predictor):
    """Several models of the same data and labels, whose predictions and posteriors are averaged; see `ensemble`.

    Attributes
    ----------
    models
        The members.
    encoder, classes
        Those of the members, or None.
    sample
        What the simulations of the first member's training looked like, or None.
    last_check
        What `diagnostics.check` found when it last looked, in short, or None.
    """

    def __init__(self, models: Sequence[Model]):
        self.models = tuple(models)
        self.encoder, self.classes, self.sample = models[0].encoder, models[0].classes, models[0].sample
        self.last_check: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Ensemble of {len(self.models)} models, the first one {self.models[0]!r}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose examples the trainings used."""
        return tuple(seed for model in self.models for seed in model.seeds)

    @property
    def network(self) -> Network:
        """The network of the first member, which says what data and labels are."""
        return self.models[0].network

    @property
    def loss(self) -> Any:
        """The loss of the first member."""
        return self.models[0].loss

    @property
    def _networks(self) -> tuple[Network, ...]:
        return tuple(model.network for model in self.models)

    @property
    def _seeds_in_words(self) -> str:
        return f"ensemble of seeds {', '.join(str(model.seed) for model in self.models)}"

    def summary(self) -> str:
        """The table of the first member's layers; see `Model.summary`."""
        return self.models[0].summary()

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it to one file, with ``.npz`` added where it is missing, whole or not at all."""
        path = model_path(path, "path")
        check_parent(path, "path")
        weights = {
            f"{i}.{name}": array
            for i, model in enumerate(self.models)
            for name, array in model.network.parameters.items()
        }
        first, *others = (model.describe() for model in self.models)
        for description in others:
            description.pop("sample", None)  # one says enough, and those of ten are more than a file's header may hold
        write_model(path, {"ensemble": [first, *others]}, weights)


def ensemble(models: Sequence[Model]) -> Ensemble:
    """Average the posteriors of models that were trained with different seeds.

    Parameters
    ----------
    models
        Two or more models of the same shapes, labels and kind of last layer.

    Raises
    ------
    ValueError, TypeError
        If they do not go together, as those of different encoders, or have no posterior that can be averaged, as those
        of quantiles.
    """
    models = list(models)
    if len(models) < 2 or not all(isinstance(model, Model) for model in models):
        raise TypeError(f"models must be two models or more, got {models!r}")
    first = models[0].network.spec
    for i, model in enumerate(models):
        spec = model.network.spec
        mine = (spec.input_shape, spec.output_shape, spec.box, spec.ends_in_softmax, model.classes)
        wanted = (first.input_shape, first.output_shape, first.box, first.ends_in_softmax, models[0].classes)
        if mine != wanted:
            raise ValueError(
                f"models[{i}] has other data or labels than models[0]: shapes, label_range, names and kind {mine}, "
                f"against {wanted}"
            )
        if model.encoder != models[0].encoder:
            raise ValueError(
                f"models[{i}] has another encoder than models[0]: {model.encoder!r}, against {models[0].encoder!r}"
            )
        if spec.head is not None and spec.head.kind == "quantiles":
            raise ValueError(f"models[{i}] gives quantiles, whose average is not known; use another head")
        if spec.head is None and not spec.ends_in_softmax:
            raise ValueError(f"models[{i}] gives estimates, and no posterior to average")
    return Ensemble(models)


def load_any(path: str | os.PathLike) -> Model | Ensemble:
    """Read what a file holds, a model as `load` does or an ensemble as `load_ensemble` does."""
    path = model_path(path, "path")
    try:
        with open_file(path, MODEL) as stored:
            is_ensemble = "ensemble" in stored.header
    except ModelFileError:
        is_ensemble = False  # perhaps a checkpoint; else `load` says what is wrong
    return load_ensemble(path) if is_ensemble else load(path)


def load_ensemble(path: str | os.PathLike) -> Ensemble:
    """Read an ensemble that `Ensemble.save` wrote.

    Parameters
    ----------
    path
        The file; ``.npz`` is added where it is missing.

    Raises
    ------
    ModelFileError
        If the file is missing, damaged, or no ensemble; the message names file and reason.
    """
    path = model_path(path, "path")
    with open_file(path, MODEL) as stored:
        if "ensemble" not in stored.header:
            raise ModelFileError(f"{path}: one model, and no ensemble; read it with definetti_np.load")
        with refuse_on_error(path, "the header describes no ensemble"):
            headers = stored.header["ensemble"]
            if not isinstance(headers, list) or not 2 <= len(headers) <= MOST_MEMBERS:
                raise ValueError("no list of two models or more")
            models = []
            for i, header in enumerate(headers):
                beginning = f"{i}."
                names = [name for name in stored.shapes if name.startswith(beginning)]
                shapes = {name.removeprefix(beginning): stored.shapes[name] for name in names}
                models.append(model_of(header, shapes, path))
            if sum(len(model.network.parameters) for model in models) != len(stored.shapes):
                raise ValueError("it holds arrays of no member")
            found = ensemble(models)
        for i, model in enumerate(models):
            for name, array in model.network.parameters.items():
                stored.read(f"{i}.{name}", out=array)
    return found
