"""Trained models: what they are, and their files. `predictor` has what they say of data, `loading` reads them."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .checks import as_positive_number, name_of
from .files.archive import write_model
from .files.paths import check_parent, model_path
from .genomes.encoder import HaplotypeEncoder, check_classes, check_encoder
from .genomes.unusual import Sample
from .history import write_lines
from .network import Network
from .predictor import Predictor
from .provenance import check_metadata, seeds_of
from .summary import describe_choice, layer_table


class Model(Predictor):
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
    encoder
        The `HaplotypeEncoder` that it was trained with, or None.
    classes
        The names of what it predicts, or None.
    last_check
        What `diagnostics.check` found when it last looked, in short, or None.
    sample
        What the first simulations of its training looked like, by which `scan` and `unusual` tell how unusual data are,
        and `predict` warns of them; None for a model without an encoder, and one of fewer than 200 simulations.
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
        encoder: HaplotypeEncoder | None = None,
        classes: Sequence[str] | None = None,
        sample: Sample | None = None,
    ):
        self.network = network
        self.loss = loss
        self.seed = seed
        self.batches_trained = batches_trained
        self.history = dict(history or {})
        self.info = dict(info or {})
        self.metadata = dict(metadata or {})
        check_encoder(encoder, network.spec.input_shape)
        self.encoder = encoder
        self.classes = check_classes(classes, network.prediction_shape)
        self.last_check: dict[str, Any] | None = None
        if sample is not None and (encoder is None or not sample.fits(encoder, network.hidden_features)):
            raise ValueError("sample must be one of what the encoder makes, and of this network")
        self.sample = sample

    def __repr__(self) -> str:
        training = f"loss={describe_choice(self.loss)}, seed={self.seed}, batches_trained={self.batches_trained}"
        tempered = "" if self.temperature is None else f"\n    temperature {self.temperature:.4g}"
        return f"Model({training}) of\n{self.network}{tempered}{self._checked_when()}"

    def _checked_when(self) -> str:
        """What is known of its posteriors, where it has any that a check has looked at."""
        if self.last_check is None:
            return ""
        result = "passed" if self.last_check["passed"] else "failed"
        when, examples = self.last_check["date"], self.last_check["examples"]
        return f"\n    posteriors checked on {when} on {examples} examples: {result}"

    @property
    def temperature(self) -> float | None:
        """How much less sure the posteriors are made, as `calibrate` finds it; None changes nothing.

        The logarithms of probabilities of classes are divided by it. Gaussians become as many times as wide, and the
        logits of the distribution functions of a spline's flow are divided by it.
        """
        return self.network.temperature

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        if value is not None and not self.takes_temperature:
            raise ValueError(
                "temperature is for a network that ends in softmax, which gives probabilities of classes, or in a head "
                "with a density"
            )
        self.network.temperature = None if value is None else as_positive_number(value, "temperature")
        self.last_check = None  # it was of other probabilities

    @property
    def takes_temperature(self) -> bool:
        """Whether it gives probabilities or densities, which a temperature can change."""
        head = self.network.head
        return self.network.spec.ends_in_softmax if head is None else head.takes_temperature

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds whose examples its training used, and those that its `initial` weights were trained on."""
        return seeds_of(self.seed, self.info)

    def summary(self) -> str:
        """The table of its layers, with the shape that each makes of a dataset and its number of parameters.

        A model of a network_function has a table of its parameters by name instead.
        """
        return layer_table(self.network.spec, self.network.parameters)

    @property
    def _networks(self) -> tuple[Network, ...]:
        return (self.network,)

    @property
    def _seeds_in_words(self) -> str:
        return f"seed {self.seed}"

    def with_rows(self, rows: int | None) -> "Model":
        """The same model for datasets of another number of rows, or of any number for None.

        It has no sample of simulations and no last check, because both were of the other number.

        Raises
        ------
        ValueError, TypeError
            If the network or the encoder does not take so many, as a network with ``g=("sort",)``, which needs the
            number that it was trained with.
        """
        return Model(
            self.network.with_rows(rows),
            loss=self.loss,
            seed=self.seed,
            batches_trained=self.batches_trained,
            history=self.history,
            info=self.info,
            metadata=self.metadata,
            encoder=self.encoder,
            classes=self.classes,
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the model to `path`, with ``.npz`` added where it is missing, whole or not at all."""
        path = model_path(path, "path")
        check_parent(path, "path")
        write_model(path, self.describe(), dict(self.network.parameters))

    def describe(self) -> dict[str, Any]:
        """What a file says of it, beside its weights."""
        if self.network.dtype != np.float32 or not np.isfinite(self.network.flat.weights).all():
            raise ValueError("only float32 networks with finite weights can be saved")
        description: dict[str, Any] = {
            "network": self.network.spec.as_dict(),
            "loss": name_of(self.loss),
            "seed": self.seed,
            "batches_trained": self.batches_trained,
        }
        history = {"columns": list(self.history), "lines": write_lines(self.history)} if self.history else {}
        more = {"history": history, "info": self.info, "metadata": check_metadata(self.metadata)}
        description |= {name: value for name, value in more.items() if value}
        if self.encoder is not None:
            description["encoder"] = self.encoder.as_dict()
        if self.classes is not None:
            description["classes"] = list(self.classes)
        if self.last_check is not None:
            description["last_check"] = self.last_check
        if self.temperature is not None:
            description["temperature"] = self.temperature
        if self.sample is not None:
            description["sample"] = self.sample.as_dict()
        return description
