"""What a model or an ensemble says of data: predictions, posteriors, how unusual the data are, and scans of genomes."""

import contextlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .checks import as_integer
from .cores import available_cores
from .engine.workspace import Workspace
from .genomes.encoder import HaplotypeEncoder, Sites
from .genomes.haplotypes import Haplotypes
from .genomes.scan import (
    OK,
    TOO_FEW_SNPS,
    Places,
    Scan,
    check_priors,
    describe_priors,
    one_line,
    value_names,
    with_prior,
)
from .genomes.unusual import Comparison, Sample
from .kernels._jit import threads as kernel_threads
from .multiset import MultisetBatch
from .network import Network, check_datasets
from .posteriors.average import AveragePosterior
from .posteriors.classes import ClassPosterior
from .posteriors.posterior import Posterior
from .progress import progress_of_share
from .scanner import predict_centers

logger = logging.getLogger("definetti_np")

# How much is predicted at once; a prediction does not depend on the datasets beside it.
DATASETS_AT_ONCE = 64
FEATURES_AT_ONCE = 2**25  # 128 MiB of float32
MOST_MISSING = 0.01  # of the alleles, taken for the commoner one in silence


class Predictor(ABC):
    """Predicts with one network, as `Model` does, or with the average of several, as `Ensemble` does.

    Attributes
    ----------
    encoder
        What makes datasets of `Haplotypes`, or None.
    classes
        The names of what it predicts, or None.
    sample
        What simulations of the training looked like, or None.
    """

    encoder: HaplotypeEncoder | None
    classes: tuple[str, ...] | None
    sample: Sample | None

    @property
    @abstractmethod
    def _networks(self) -> tuple[Network, ...]:
        """Those whose predictions are averaged, all of the same data and labels; the sample is of the first."""

    @property
    @abstractmethod
    def _seeds_in_words(self) -> str:
        """What a scan's file says of the training."""

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
        return self.predict_with_unusual(data, threads, centers=centers)[0]

    def predict_with_unusual(
        self,
        data: Iterable[np.ndarray] | MultisetBatch | Haplotypes,
        threads: int | None = None,
        *,
        centers: Sequence[float] | np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What `predict` and `unusual` return, with the network computed once.

        The second is None where nothing is known of the simulations of the training, which is an error of `unusual`.
        Parameters, errors and the warning are those of `predict`.
        """
        comparison = self._comparison()
        predictions, unusual = self._predict(data, threads, centers, comparison)
        if isinstance(data, Haplotypes):
            _warn_of_missing(self._needed_encoder(), data)
        _warn_if_unusual(comparison, data.contig if isinstance(data, Haplotypes) else "data")
        return predictions, None if comparison is None else unusual

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
        if isinstance(data, Haplotypes):
            raise TypeError(
                "posterior takes datasets, got Haplotypes; make datasets of them with encoder.encode_many(haplotypes, "
                "centers)"
            )
        first = self._networks[0]
        if first.head is not None:
            threads = available_cores() if threads is None else as_integer(threads, "threads", minimum=1)
            comparison = self._comparison()
            shape = (0, first.head.spec.outputs)
            of_networks, _ = self._compute(data, threads, lambda network, outputs: outputs, shape, comparison)
            _warn_if_unusual(comparison, "data")
            posteriors = [n.posterior_of(outputs) for n, outputs in zip(self._networks, of_networks, strict=True)]
            return posteriors[0] if len(posteriors) == 1 else AveragePosterior(posteriors, posteriors[0]._box)
        if not first.spec.ends_in_softmax:
            raise ValueError(
                "the model gives estimates, and no posterior; train an h_net that ends in ('softmax',), or for "
                "continuous labels in a head such as ('spline', 10)"
            )
        names = self.classes or tuple(f"class {i}" for i in range(first.prediction_shape[0]))
        return ClassPosterior(self.predict(data, threads), names)

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
        encoder, network = self._needed_encoder(), self._networks[0]
        number = network.prediction_shape[0]
        is_posterior = network.spec.ends_in_softmax
        names = value_names(self.classes, number, is_posterior=is_posterior)
        priors = check_priors(prior, training_prior, number, is_posterior=is_posterior)
        notes = {"haplotypes": one_line(haplotypes.report), "model": one_line(self._seeds_in_words)}
        notes |= describe_priors(names, priors) if is_posterior else {}
        sites = Sites.of(encoder, haplotypes)
        places = Places.of(sites, step=step, at=at, start=start, stop=stop)
        snps, status = places.status(sites)
        values = np.full((len(status), number), np.nan, np.float32)
        is_ok = status == OK
        comparison = self._comparison()
        with contextlib.closing(progress_of_share(f"scanning {haplotypes.contig}", is_wanted=progress)) as shown:
            predicted, unusual_if_ok = self._predict_centers(
                haplotypes, places.center[is_ok], threads, comparison, shown.reach
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
        shape = (0, *self._networks[0].prediction_shape)
        of_networks, unusual = self._compute(data, threads, Network.predictions_of, shape, comparison)
        return _mean(of_networks), unusual

    def _predict_centers(
        self,
        haplotypes: Haplotypes,
        centers: np.ndarray,
        threads: int,
        comparison: Comparison | None,
        reach: Callable[[float], None] = lambda share: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for the windows around centres; NaN for those with too few SNPs. `reach` is told what is done."""
        encoder, networks = self._needed_encoder(), self._networks
        of_networks, distances = [], np.empty(0)
        for i, network in enumerate(networks):

            def reach_of_all(share: float, done: int = i) -> None:
                reach((done + share) / len(networks))

            features = None if comparison is None or i > 0 else comparison.features
            with kernel_threads(threads):
                predictions, away = predict_centers(
                    network, encoder, haplotypes, centers, features=features, reach=reach_of_all
                )
            of_networks.append(predictions)
            distances = away if i == 0 else distances
        unusual = np.full(len(centers), np.nan, np.float32)
        if comparison is not None:
            sites = Sites.of(encoder, haplotypes)
            first, has_window = sites.windows(centers)
            unusual[has_window] = comparison.of_windows(sites, first[has_window], distances[has_window])
        return _mean(of_networks), unusual

    def _compute(
        self,
        data: Any,
        threads: int,
        finish: Callable[[Network, np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        comparison: Comparison | None,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """What `finish` makes of what each network computes of datasets, and how unusual these are.

        `shape` is that of what it makes of no datasets.
        """
        networks = self._networks
        parts = [[np.empty(shape, network.dtype)] for network in networks]
        unusual = [np.empty(0, np.float32)]
        workspace = Workspace()
        with kernel_threads(threads), np.errstate(all="ignore"):  # a probability of 0 is an underflow
            for first, part in self._parts_of(data):
                for network, of_network in zip(networks, parts, strict=True):
                    with workspace.use():
                        batch = network.as_batch(part, first=first)
                        outputs, hidden = network.compute_with_hidden(batch)
                        of_network.append(finish(network, outputs).copy())
                        if comparison is not None and network is networks[0]:
                            unusual.append(comparison.of_datasets(batch, hidden))
        return [np.concatenate(of_network) for of_network in parts], np.concatenate(unusual)

    def _comparison(self) -> Comparison | None:
        """What tells how unusual data are, or None if the model does not know its simulations."""
        sample, encoder = self.sample, self.encoder
        if sample is None or encoder is None or not sample.fits(encoder, self._networks[0].hidden_features):
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
        rows_at_once = FEATURES_AT_ONCE // max(network.features_per_row for network in self._networks)
        input_shape = self._networks[0].spec.input_shape
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


def _mean(of_networks: list[np.ndarray]) -> np.ndarray:
    return of_networks[0] if len(of_networks) == 1 else np.mean(of_networks, axis=0)


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
