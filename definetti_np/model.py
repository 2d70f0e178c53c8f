"""Trained models: predict with them, scan genomes, save them. `loading` reads them."""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .checks import as_integer, as_positive_number, name_of
from .cores import available_cores
from .engine.workspace import Workspace
from .files.archive import write_model
from .files.paths import check_parent, model_path
from .genomes.encoder import HaplotypeEncoder, Sites, check_classes, check_encoder
from .genomes.haplotypes import Haplotypes
from .genomes.scan import (
    OK,
    TOO_FEW_SNPS,
    Places,
    Scan,
    check_prior,
    describe_prior,
    one_line,
    value_names,
    with_prior,
)
from .genomes.unusual import Comparison, Sample
from .history import write_lines
from .kernels._jit import threads as kernel_threads
from .multiset import MultisetBatch
from .network import Network, check_datasets
from .posteriors.classes import ClassPosterior
from .posteriors.posterior import Posterior
from .progress import ShareProgress, progress_of_share
from .provenance import check_metadata, seeds_of
from .scanner import predict_centers
from .summary import describe_choice, layer_table

logger = logging.getLogger("definetti_np")

# How much is predicted at once; a prediction does not depend on the datasets beside it.
DATASETS_AT_ONCE = 64
FEATURES_AT_ONCE = 2**25  # 128 MiB of float32
MOST_MISSING = 0.01  # of the alleles, taken for the commoner one in silence


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

    def predict(
        self,
        data: Iterable[np.ndarray] | MultisetBatch | Haplotypes,
        threads: int | None = None,
        *,
        centers: Sequence[float] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict the label of each dataset.

        Parameters
        ----------
        data
            Array (B, n, W[, C]), sequence of B arrays (n, W[, C]), or MultisetBatch; B may be 0. A generator of arrays
            is predicted part by part, so that its arrays need not be in memory together. Or `Haplotypes`, which the
            model's encoder encodes around `centers`.
        threads
            Number of threads, None for every core of this process; the result does not depend on it.
        centers
            (B,) positions in bp, of Haplotypes.

        Returns
        -------
        (B, N) float32
            Posterior probabilities of a softmax network, estimates of a matmul network, the means of a head's
            posteriors; what a network function returns, (B, M). NaN for a centre with too few SNPs. If the model has a
            sample of its training, a warning is logged if more than 5 % of the datasets lie outside 99 % of those
            simulations; `unusual` says which.

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the network, or the model has no encoder for Haplotypes.
        """
        comparison = self._comparison()
        predictions, _ = self._predict(data, threads, centers, comparison)
        if isinstance(data, Haplotypes):
            _warn_of_missing(self._needed_encoder(), data)
        _warn_if_unusual(comparison, data.contig if isinstance(data, Haplotypes) else "data")
        return predictions

    def unusual(
        self,
        data: Iterable[np.ndarray] | MultisetBatch | Haplotypes,
        threads: int | None = None,
        *,
        centers: Sequence[float] | np.ndarray | None = None,
    ) -> np.ndarray:
        """How unusual each dataset is among the simulations of the training; docs/meaning.md says what this means.

        Parameters
        ----------
        data, threads, centers
            As for `predict`.

        Returns
        -------
        (B,) float32
            Which share of these simulations is less unusual than the dataset. NaN for a centre with too few SNPs.

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the network, or the model has no sample of its simulations: that of fewer than 200,
            without an encoder, or of an earlier version.
        """
        comparison = self._comparison()
        if comparison is None:
            raise ValueError(
                "the model has no sample of its simulations, so it cannot tell what is unusual; train with encoder= "
                "and at least 200 simulations"
            )
        return self._predict(data, threads, centers, comparison)[1]

    def posterior(
        self, data: Iterable[np.ndarray] | MultisetBatch, threads: int | None = None
    ) -> Posterior | ClassPosterior:
        """The posterior of the label of each dataset.

        Parameters
        ----------
        data
            Array (B, n, W[, C]), sequence of B arrays (n, W[, C]), or MultisetBatch; as for `predict`.
        threads
            Number of threads, None for every core of this process; the result does not depend on it.

        Returns
        -------
        Posterior or ClassPosterior
            That of a head, whose `mean` is what `predict` returns; or the probabilities of a softmax network.

        Raises
        ------
        ValueError, TypeError
            If the data does not fit the network, or this has no posterior: it ends in matmul, or is a function without
            a head.
        """
        threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        network = self.network
        if network.head is not None:
            comparison = self._comparison()
            empty = np.empty((0, network.head.spec.outputs), network.dtype)
            outputs, _ = self._compute(data, threads, lambda outputs: outputs, empty, comparison)
            _warn_if_unusual(comparison, "data")
            return network.posterior_of(outputs)
        if not network.spec.ends_in_softmax:
            raise ValueError(
                "the model gives estimates, and no posterior; train an h_net that ends in ('softmax',), or for "
                "continuous labels in a head such as ('spline', 10)"
            )
        names = self.classes or tuple(f"class {i}" for i in range(network.prediction_shape[0]))
        return ClassPosterior(self.predict(data, threads), names)

    def _predict(
        self, data: Any, threads: int | None, centers: Any, comparison: Comparison | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The predictions (B, N) for what `predict` takes, and how unusual it is, (B,), where that is asked for."""
        threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        if isinstance(data, Haplotypes):
            if centers is None:
                raise ValueError("centers are needed for Haplotypes: positions in bp to predict at")
            return self._predict_centers(data, np.asarray(centers, np.float64), threads, comparison)
        if centers is not None:
            raise ValueError(f"centers are for Haplotypes, got data of {type(data).__name__}")
        empty = np.empty((0, *self.network.prediction_shape), self.network.dtype)
        return self._compute(data, threads, self.network.predictions_of, empty, comparison)

    def _predict_centers(
        self,
        haplotypes: Haplotypes,
        centers: np.ndarray,
        threads: int,
        comparison: Comparison | None,
        progress: ShareProgress | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for the windows around centres; NaN for those with too few SNPs."""
        encoder, features = self._needed_encoder(), None if comparison is None else comparison.features
        with kernel_threads(threads):
            predictions, distances = predict_centers(
                self.network, encoder, haplotypes, centers, features=features, progress=progress
            )
        unusual = np.full(len(centers), np.nan, np.float32)
        if comparison is not None:
            sites = Sites.of(encoder, haplotypes)
            first, has_window = sites.windows(centers)
            unusual[has_window] = comparison.of_windows(sites, first[has_window], distances[has_window])
        return predictions, unusual

    def _compute(
        self, data: Any, threads: int, finish: Callable, empty: np.ndarray, comparison: Comparison | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `finish` makes of what the network computes of datasets, and how unusual these are.

        `empty` is what it makes of none.
        """
        parts, unusual = [empty], [np.empty(0, np.float32)]
        workspace = Workspace()
        with kernel_threads(threads), np.errstate(all="ignore"):  # a probability of 0 is an underflow
            for first, part in self._parts_of(data):
                with workspace.use():
                    batch = self.network.as_batch(part, first=first)
                    outputs, hidden = self.network.compute_with_hidden(batch)
                    parts.append(finish(outputs).copy())
                    if comparison is not None:
                        unusual.append(comparison.of_datasets(batch, hidden))
        return np.concatenate(parts), np.concatenate(unusual)

    def with_rows(self, rows: int | None) -> "Model":
        """The same model for datasets of another number of rows, or of any number for None.

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

    def scan(
        self,
        haplotypes: Haplotypes,
        *,
        step: float = 500,
        at: str | None = None,
        start: float | None = None,
        stop: float | None = None,
        prior: Sequence[float] | None = None,
        training_prior: Sequence[float] | None = None,
        threads: int | None = None,
        progress: bool = True,
    ) -> Scan:
        """Predict along a contig.

        Each distinct window is computed once, and what overlapping windows share once where that is exact; the memory
        does not grow with the number of places, but for the table itself.

        Parameters
        ----------
        haplotypes
            What `read_haplotypes` reads.
        step
            The distance of the centres in bp; each stands in the middle of an interval of so many bp.
        at
            "snps" for a centre between each two neighbouring SNPs, so that each distinct window comes once.
        start, stop
            The stretch to scan, 0-based and half open; None for all of the haplotypes' stretch.
        prior
            The probabilities of the classes in the genome, which take the place of those in the training by Bayes'
            rule. None leaves the posterior as it is.
        training_prior
            The probabilities of the classes in the training's simulations, None for the same for each.
        threads
            Number of threads, None for every core of this process; the result does not depend on it.
        progress
            Whether to show how far it is: a bar on a terminal or in a notebook, else a line of the log every ten
            seconds.

        Returns
        -------
        Scan
            A row for each place; one that has too few SNPs or is not accessible says so. If the model has a sample of
            its training, the column `unusual` says which share of those simulations is less unusual than the window,
            and a warning is logged if more than 5 % of the windows lie outside 99 % of them.

        Raises
        ------
        ValueError, TypeError
            If an argument is wrong, the model has no encoder, or the haplotypes are not what it takes.
        """
        threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
        encoder, network = self._needed_encoder(), self.network
        number = network.prediction_shape[0]
        is_posterior = network.spec.ends_in_softmax
        names = value_names(self.classes, number, is_posterior=is_posterior)
        notes = {"haplotypes": one_line(haplotypes.report), "model": one_line(f"seed {self.seed}")}
        priors = None
        if prior is not None:
            if not is_posterior:
                raise ValueError("prior is for a network that ends in softmax, which gives probabilities of classes")
            before = check_prior(
                [1 / number] * number if training_prior is None else training_prior, number, "training_prior"
            )
            priors = check_prior(prior, number, "prior"), before
            notes["prior"] = describe_prior(names, priors[0])
            notes["training_prior"] = describe_prior(names, before)
        elif training_prior is not None:
            raise ValueError("training_prior is for a prior that takes its place; give prior too")
        elif is_posterior:
            notes["prior"] = "that of the training"
        sites = Sites.of(encoder, haplotypes)
        places = Places.of(sites, step=step, at=at, start=start, stop=stop)
        snps, status = places.status(sites)
        values = np.full((len(status), number), np.nan, np.float32)
        is_ok = status == OK
        comparison = self._comparison()
        with contextlib.closing(progress_of_share(f"scanning {haplotypes.contig}", is_wanted=progress)) as shown:
            predicted, unusual_if_ok = self._predict_centers(
                haplotypes, places.center[is_ok], threads, comparison, shown
            )
        values[is_ok] = predicted if priors is None else with_prior(predicted, *priors)
        unusual = None if comparison is None else np.full(len(status), np.nan, np.float32)
        if unusual is not None:
            unusual[is_ok] = unusual_if_ok
        warning = _warn_if_unusual(comparison, haplotypes.contig)
        if warning is not None:
            notes["warning"] = warning
        _warn_of_missing(encoder, haplotypes)
        status[is_ok & np.isnan(values).any(axis=1)] = TOO_FEW_SNPS  # with another choice of rows
        return Scan(
            contig=haplotypes.contig,
            start=places.start,
            end=places.end,
            center=places.center,
            snps=snps,
            values=values,
            status=status.astype(str),
            names=names,
            notes=notes,
            unusual=unusual,
        )

    def _comparison(self) -> Comparison | None:
        """What tells how unusual data are, or None if the model does not know its simulations."""
        sample, encoder = self.sample, self.encoder
        if sample is None or encoder is None or not sample.fits(encoder, self.network.hidden_features):
            return None
        return Comparison(sample, encoder)

    def _needed_encoder(self) -> HaplotypeEncoder:
        if self.encoder is None:
            raise ValueError(
                "the model has no encoder, so Haplotypes cannot become its data; train with encoder=, or set "
                "model.encoder to a HaplotypeEncoder that does what the simulator did"
            )
        return self.encoder

    def _parts_of(self, data: Any) -> Iterator[tuple[int, Any]]:
        """Yield (number of the first dataset, datasets) to predict at once."""
        rows_at_once = FEATURES_AT_ONCE // self.network.features_per_row
        input_shape = self.network.spec.input_shape
        if isinstance(data, MultisetBatch):
            for start, stop in _parts(np.diff(data.offsets), rows_at_once):
                yield start, data.slice(start, stop)
            return
        first = 0
        # All of a sequence is looked at before the first is computed; a generator may be longer than memory.
        pieces = iter(lambda: list(itertools.islice(data, DATASETS_AT_ONCE)), [])
        for piece in pieces if isinstance(data, Iterator) else [data]:
            datasets = check_datasets(piece, input_shape, first=first)
            for start, stop in _parts([len(dataset) for dataset in datasets], rows_at_once):
                yield first + start, datasets[start:stop]
            first += len(datasets)

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


def _warn_if_unusual(comparison: Comparison | None, name: str) -> str | None:
    """Say once that data of this name are not like the simulations, if they are not; return what was said."""
    warning = None if comparison is None else comparison.warning()
    if warning is not None:
        logger.warning("%s: %s", name, warning)
    return warning


def _warn_of_missing(encoder: HaplotypeEncoder, haplotypes: Haplotypes) -> None:
    """Say that alleles are missing where the datasets do not show it."""
    missing = 1 - haplotypes.allele_counts()[1].sum() / max(1, haplotypes.alleles.size)
    if encoder.missing == "major" and haplotypes.alleles.size and missing > MOST_MISSING:
        logger.warning(
            "%s: %.2g %% of the alleles are missing, and the encoder takes the commoner allele for them; unless the "
            "simulations missed as many, as those of encoder.like(haplotypes) do, predictions may be wrong",
            haplotypes.contig, 100 * missing,
        )  # fmt: skip


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
