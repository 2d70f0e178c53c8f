"""Predictions for windows along haplotypes: what neighbouring windows share is computed once, where that is exact.

Two windows that begin at the same SNP are one. Windows that overlap share more: where Phi has convolutions alone, what
is pooled over the rows at a position depends on the SNPs under it and not on the window, but for the window's last
position, because the last SNP of a window has no distance to a next one. So a stretch of the genome is pooled once, as
one long dataset, the last positions are pooled apart, and h gets the pieces that a window is made of: the same numbers,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .engine.assembly import assemble_datasets
from .engine.features import RowFeatures
from .engine.tensor import Tensor
from .engine.workspace import Workspace
from .genomes.encoder import DISTANCES, HaplotypeEncoder, Sites
from .genomes.haplotypes import Haplotypes
from .genomes.unusual import Features
from .network import LayerLists, Network

FEATURES_AT_ONCE = 2**26  # 256 MiB of float32 if none was equal to another; a seventh of it in haplotypes
DATASETS_AT_ONCE = 256  # threads wait for each other after each of some ten steps for so many
WINDOWS_AT_ONCE = 512
POSITIONS_OF_A_SEGMENT = 128  # of a long dataset, because threads share the work by datasets
LEAST_OVERLAP = 2.0  # how often windows must cover a SNP for what they share to be worth it


def predict_centers(
    network: Network,
    encoder: HaplotypeEncoder,
    haplotypes: Haplotypes,
    centers: Sequence[float] | np.ndarray,
    *,
    features: Features | None = None,
    reach: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the windows around centres, (B, N); NaN for those with too few SNPs.

    Where the haplotypes are more than the encoder takes, this is the mean over its choices of rows. The second array,
    (B,), has the distances of the features of the last hidden layer from those of the training, for the first of these
    choices; NaN where they are not asked for. `reach` is told which share of the windows is done.

    Raises
    ------
    ValueError
        If the haplotypes are not what the encoder takes, or a centre lies outside.
    """
    number = len(np.asarray(centers))
    takes_all = encoder.haplotypes is None or encoder.haplotypes == haplotypes.num_haplotypes // (
        2 if encoder.alleles == "genotypes" else 1
    )
    choices = 1 if takes_all else encoder.choices
    total, distances = np.zeros((number, *network.prediction_shape)), np.full(number, np.nan)
    for choice in range(choices):
        sites = Sites.of(encoder, haplotypes, choice=choice)
        first, has_window = sites.windows(centers)

        def reach_of_all(share: float, done: int = choice) -> None:
            reach((done + share) / choices)

        wanted = features if choice == 0 else None
        predictions, away = predict_windows(network, sites, first[has_window], features=wanted, reach=reach_of_all)
        total[has_window] += predictions
        total[~has_window] = np.nan
        if choice == 0:
            distances[has_window] = away
    return (total / choices).astype(network.dtype), distances


def predict_windows(
    network: Network,
    sites: Sites,
    first: np.ndarray,
    *,
    shares: bool = True,
    features: Features | None = None,
    reach: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the windows that begin at these sites, (K, N), and their distances (K,) as in `predict_centers`.

    `shares` says whether to look for what they share; `reach` is told which share of them is done.
    """
    distinct, number = np.unique(first, return_inverse=True)
    predictions = np.empty((len(distinct), *network.prediction_shape), network.dtype)
    distances = np.full(len(distinct), np.nan)
    lists = layers_to_share(network, sites.encoder) if shares else None
    workspace = Workspace()
    for start, stop in _blocks(distinct, sites.encoder.snps):
        block = distinct[start:stop]
        covered = block[-1] - block[0] + sites.encoder.snps
        hidden: np.ndarray | None
        if lists is not None and len(block) * sites.encoder.snps >= LEAST_OVERLAP * covered:
            outputs, hidden = _compute_shared(network, lists, sites, block, workspace)
        else:
            outputs, hidden = _compute_apart(network, sites, block, workspace)
        with np.errstate(all="ignore"):  # a probability of 0 is an underflow
            predictions[start:stop] = network.predictions_of(outputs)
        if features is not None and hidden is not None:
            distances[start:stop] = features.distances(hidden)
        reach(stop / len(distinct))
    return predictions[number], distances[number]


def layers_to_share(network: Network, encoder: HaplotypeEncoder) -> LayerLists | None:
    """The network's layers, if what they pool at a position is the same, to the last bit, in all windows that cover it.

    It is not with dense layers or a context, which see the whole window, with moments, which are rounded in the order
    of the window's distinct rows, or where windows may reach beyond the SNPs.
    """
    lists = network.network_function
    if not isinstance(lists, LayerLists) or network.context or encoder.pad:
        return None
    if not lists.pools_exactly or lists.reach is None or lists.reach >= encoder.snps:
        return None
    return lists


def _blocks(first: np.ndarray, snps: int) -> Iterator[tuple[int, int]]:
    """Cut ascending windows into blocks of neighbours."""
    start = 0
    while start < len(first):
        stop = int(np.searchsorted(first, first[start] + WINDOWS_AT_ONCE + snps))
        yield start, min(stop, start + WINDOWS_AT_ONCE)
        start = min(stop, start + WINDOWS_AT_ONCE)


def _compute_apart(
    network: Network, sites: Sites, first: np.ndarray, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray | None]:
    """What the network computes of windows as datasets of their own, and the features of its last hidden layer."""
    at_once = max(1, FEATURES_AT_ONCE // (network.features_per_row * len(sites.columns)))
    at_once = min(at_once, DATASETS_AT_ONCE)
    outputs, hidden = [], []
    for start in range(0, len(first), at_once):
        with workspace.use():
            batch = network.as_batch(sites.encode(first[start : start + at_once]), first=start)
            computed, of_layer = network.compute_with_hidden(batch)
            outputs.append(computed.copy())
            hidden += [] if of_layer is None else [of_layer.copy()]
    return np.concatenate(outputs), np.concatenate(hidden) if hidden else None


def _compute_shared(
    network: Network, lists: LayerLists, sites: Sites, first: np.ndarray, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray]:
    """The same of overlapping windows, from what is pooled of the stretch that they cover."""
    snps, reach = sites.encoder.snps, lists.reach or 1
    positions = snps - reach + 1
    starts = first - first[0]
    number = starts[-1] + positions  # positions to pool
    segments = -(-number // POSITIONS_OF_A_SEGMENT)
    table = sites.table(first[0], first[0] + segments * POSITIONS_OF_A_SEGMENT + reach - 1)
    width = POSITIONS_OF_A_SEGMENT + reach - 1
    pooled = _pool(network, lists, table, np.arange(segments) * POSITIONS_OF_A_SEGMENT, width, workspace)
    pooled = pooled.reshape(-1, pooled.shape[2])
    parts = pooled[starts[:, np.newaxis] + np.arange(positions)]
    if sites.encoder.distances:
        ends = _pool(network, lists, table, starts + snps - reach, reach, workspace, is_end=True)
        parts[:, -1] = ends[:, 0]
    return network.finish_with_hidden(lists, Tensor(parts))


def _pool(
    network: Network,
    lists: LayerLists,
    table: np.ndarray,
    starts: np.ndarray,
    width: int,
    workspace: Workspace,
    *,
    is_end: bool = False,
) -> np.ndarray:
    """What is pooled of the stretches of a table (n, L, C) that begin at `starts`, (len(starts), P, K).

    `is_end` says that they are ends of windows.
    """
    rows = len(table)
    features = network.features_per_row * width // network.spec.input_shape[1]
    at_once = max(1, min(DATASETS_AT_ONCE, FEATURES_AT_ONCE // (features * rows)))
    pooled = []
    for i in range(0, len(starts), at_once):
        stretches = np.stack([table[:, start : start + width] for start in starts[i : i + at_once]])
        if is_end:
            stretches[:, :, -1, DISTANCES] = 0
        with workspace.use():
            batch = assemble_datasets(stretches, network.dtype)
            rows_of_batch = RowFeatures.from_batch(batch)
            pooled.append(network.apply(lists.pool, rows_of_batch, dtype=network.dtype).array.copy())
    return np.concatenate(pooled)
