"""Whether a network that a user wrote depends on each dataset as a multiset of rows, and on nothing else."""

import numpy as np

from .engine.context import compute_context
from .multiset import MultisetBatch
from .network import Network

OUTPUT_TOLERANCE = 1e-7  # of float64, relative to the largest number: only the order of sums may change
ADVICE = "the documentation says more under 'What keeps a network permutation invariant'"


def check_context_functions(network: Network, batch: MultisetBatch) -> None:
    """Compute the context of a batch twice, the second time with its rows in another order.

    Raises
    ------
    ValueError
        If what a function of the user's returns changes; the message says which.
    """
    if not network.context.functions:
        return
    batch = _as_float64(batch)
    before, after = compute_context(network.context, batch), compute_context(network.context, _shuffled(batch))
    channel = 0
    for entry in network.context.entries:
        channels = slice(channel, channel + entry.channels)
        if entry.is_function and _changed(before[..., channels], after[..., channels]).any():
            raise ValueError(
                f"context, {entry.kind}: with the rows of a dataset in another order it returns something else. It "
                f"must depend on which rows there are, and how often each, and on nothing else; {ADVICE}"
            )
        channel += entry.channels


def check_invariance(network: Network, batch: MultisetBatch) -> None:
    """Compute a batch twice, with its rows in another order, and between other datasets.

    Raises
    ------
    ValueError
        If an output changes; the message says which, and which operation gives the first result that changes.
    """
    batch = _as_float64(batch)
    with np.errstate(all="ignore"):
        expected, log = _compute(network, batch)
        if not np.isfinite(expected).all():
            return  # the loss says so
        if _first_change(expected, _compute(network, batch)[0]) is not None:
            raise ValueError(
                "network_function gives other results for the same batch: it must keep nothing from one call to the "
                "next and draw nothing by itself; use ops.dropout, which drops in training alone"
            )
        out, new_log = _compute(network, _shuffled(batch), what="with the rows of each dataset in another order")
        if (found := _first_change(expected, out)) is not None:
            raise ValueError(
                "network_function is not permutation invariant: with the rows of each dataset in another order its "
                f"output {found}{_first_operation(log, new_log, len(batch))}. What is computed of rows must go through "
                f"a symmetric function such as ops.max or ops.mean; {ADVICE}"
            )
        number = len(batch)
        out, _ = _compute(network, *_between_others(network, batch), "with other datasets beside the batch")
        if (found := _first_change(expected, out[number : 2 * number])) is not None:
            raise ValueError(
                "network_function mixes the datasets of a batch: computed between others, the output "
                f"{found}. The first axis of a Tensor, B, must stay as it is: no sum, mean or max along it; {ADVICE}"
            )


def _as_float64(batch: MultisetBatch) -> MultisetBatch:
    return MultisetBatch(batch.rows.astype(np.float64), batch.counts, batch.offsets)


def _between_others(network: Network, batch: MultisetBatch) -> tuple[MultisetBatch, np.ndarray | None]:
    """The batch with as many made-up datasets before it, and twice as many after it; and their context.

    That is the batch's, because what is made up may be nothing that a context can be computed of.
    """
    before, after = (batch.rows * scale + scale for scale in (0.5, 0.25))
    rows = np.concatenate([before, batch.rows, after, before])
    sizes = np.tile(np.diff(batch.offsets), 4)
    context = np.tile(compute_context(network.context, batch), (4, 1, 1)) if network.context else None
    return MultisetBatch(rows, np.tile(batch.counts, 4), np.concatenate([[0], np.cumsum(sizes)])), context


def _compute(
    network: Network, batch: MultisetBatch, context: np.ndarray | None = None, what: str | None = None
) -> tuple[np.ndarray, list]:
    log: list[tuple[str, np.ndarray]] = []
    try:
        return network.compute(batch, log, context).array, log
    except Exception as error:
        if what is not None:
            error.add_note(f"network_function failed {what}, not before: it must be a function of each dataset alone")
        raise


def _shuffled(batch: MultisetBatch) -> MultisetBatch:
    """The same datasets with their rows in another order, and with each repeated row divided into two."""
    rng = np.random.default_rng(0)
    chosen, counts, offsets = [], [], [0]
    for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        rows = np.repeat(np.arange(start, stop), np.minimum(batch.counts[start:stop], 2))
        first = np.concatenate([[True], rows[1:] != rows[:-1]])
        last = np.append(first[1:], True)
        order = rng.permutation(len(rows))
        chosen.append(rows[order])
        counts.append(np.where(last, batch.counts[rows] - ~first, 1)[order])
        offsets.append(offsets[-1] + len(rows))
    return MultisetBatch(batch.rows[np.concatenate(chosen)], np.concatenate(counts), np.array(offsets))


def _changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    scale = np.abs(before[np.isfinite(before)]).max(initial=1e-300)
    return ~np.isclose(before, after, rtol=0, atol=OUTPUT_TOLERANCE * scale, equal_nan=True)


def _first_change(before: np.ndarray, after: np.ndarray) -> str | None:
    where = np.argwhere(_changed(before, after))
    if len(where) == 0:
        return None
    dataset, number = map(int, where[0])
    return f"{number} of dataset {dataset} goes from {before[dataset, number]:.6g} to {after[dataset, number]:.6g}"


def _first_operation(before: list, after: list, datasets: int) -> str:
    """Name the first operation on whole datasets whose result changes."""
    for i, ((name, array), (_, other)) in enumerate(zip(before, after, strict=False)):
        if array.shape == other.shape and array.shape[:1] == (datasets,) and _changed(array, other).any():
            calls = [earlier for earlier, _ in before[: i + 1]].count(name)
            return f"; the first result of shape (B, ...) that changes is that of call {calls} of ops.{name}"
    return ""
