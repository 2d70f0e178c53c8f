"""Training on data that is simulated on the fly."""

import logging
import time
from pathlib import Path

from .checks import as_integer, as_positive_number, name_of
from .cores import available_cores
from .logs import Summary, log_to, progress
from .losses import check_accuracy, check_loss
from .modelfile import check_parent, model_path
from .seeds import check_seed
from .simulation import ExampleSource, SerialStream, takes_generator
from .specs import function_spec, network_spec
from .workers import WorkerStream

logger = logging.getLogger("definetti_np")

# Nothing imported above imports Numba: worker processes are forked before it is loaded.


def train(
    input_shape,
    output_shape,
    simulator,
    phi_net=(("fc", 1024), ("fc", 1024)),
    g=("max",),
    h_net=(("fc", 512), ("softmax",)),
    network_function=None,
    loss="cross-ent",
    accuracy="classification",
    num_batches=20000,
    batch_size=50,
    queue_capacity=250,
    verbosity=100,
    training_threads=None,
    sim_threads=None,
    save_path=None,
    training_summary=None,
    logfile=".",
    *,
    seed=None,
    learning_rate=0.001,
):
    """Train an exchangeable neural network on data that is simulated on the fly (Chan et al. 2018).

    The arguments are those of the original defiNETti, up to `logfile`; the others are keywords.

    Parameters
    ----------
    input_shape
        Shape of the simulator's data: ``(n, W)`` or ``(n, W, C)``, rows, width, channels; ``n`` may be None for any
        number of rows (not with ``g=("sort",)``).
    output_shape
        Shape of the label, ``(N,)``.
    simulator
        Function that returns a tuple (data, label) of NumPy arrays. With an argument it receives a
        `numpy.random.Generator`; without one it finds `numpy.random` and `random` seeded. Either way
        example i is a function of (seed, i).
    phi_net
        Layers for each row, ``("conv", width, depth)`` and ``("fc", nodes)``, each with ReLU.
    g
        Symmetric function of the rows: ``("max",)``, ``("sort",)``, ``("top_k", k)`` or ``("moments", m1, m2, ...)``.
    h_net
        Layers after it, the last one ``("matmul",)`` or ``("softmax",)``.
    network_function
        A network of your own: a function of features, written with `definetti_np.ops` and `definetti_np.layers`, that
        returns a Tensor (B, M); see docs/write_your_own_network.md. Then phi_net, g and h_net are ignored, and
        predictions are what it returns.
    loss
        "cross-ent" with softmax (a network function ends in `ops.log_softmax`), "l2" with matmul; or a function
        ``loss(prediction, label)`` of a Tensor (B, M) and an array (B, N) that returns a Tensor with one number.
    accuracy
        "classification" (largest prediction at the largest label), None for the loss, or a function
        ``accuracy(prediction, label)`` of arrays that returns a number.
    num_batches
        Number of training steps.
    batch_size
        Examples in a batch.
    queue_capacity
        Examples that may be simulated ahead, at least `batch_size`.
    verbosity
        Report every this many batches.
    training_threads
        Threads of the training, None for every core of this process.
    sim_threads
        Simulator processes, None for one per core of this process, 0 to simulate in this process.
    save_path
        Base name of the model file; ``.npz`` is added. None saves nothing.
    training_summary
        Text file of lines ``<batch> <loss> <accuracy>``, one every `verbosity` batches. None writes none.
    logfile
        "." for stderr, a path, or None for silence.
    seed
        Non-negative integer from which everything random follows: the same seed gives the same model, bit for bit,
        whatever the numbers of threads and processes. None draws one; it is in the log and in the model.
    learning_rate
        Step size of Adam.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, before anything is simulated.
    SimulatorError
        If the simulator fails, or returns something that does not fit; with the example's index and seed.
    FloatingPointError
        If the loss becomes NaN or infinite.
    """
    if network_function is None:
        spec = network_spec(input_shape, output_shape, phi_net, g, h_net)
    else:
        spec = function_spec(input_shape, output_shape, network_function)
    takes_generator(simulator)
    check_loss(loss, spec)
    check_accuracy(accuracy)
    num_batches = as_integer(num_batches, "num_batches", minimum=1)
    batch_size = as_integer(batch_size, "batch_size", minimum=1)
    queue_capacity = as_integer(queue_capacity, "queue_capacity", minimum=1)
    if batch_size > queue_capacity:
        raise ValueError(
            f"batch_size must be at most queue_capacity, got batch_size={batch_size} and "
            f"queue_capacity={queue_capacity}; raise queue_capacity"
        )
    verbosity = as_integer(verbosity, "verbosity", minimum=1)
    if training_threads is not None:
        training_threads = as_integer(training_threads, "training_threads", minimum=1)
    workers = available_cores() if sim_threads is None else as_integer(sim_threads, "sim_threads", minimum=0)
    as_positive_number(learning_rate, "learning_rate")
    seed = check_seed(seed)
    if save_path is not None:
        save_path = model_path(save_path, "save_path")
        check_parent(save_path, "save_path")
    if training_summary is not None:
        training_summary = Path(training_summary).expanduser().absolute()
        check_parent(training_summary, "training_summary")
    if logfile not in (None, "."):
        check_parent(Path(logfile).expanduser(), "logfile")

    source = ExampleSource(simulator, seed, spec, name_of(loss))
    with log_to(logfile), _open_stream(source, workers, queue_capacity, num_batches * batch_size) as stream:
        # Only now: the workers are forked from a process that has neither Numba nor its threads.
        from .model import Model
        from .network import Network
        from .trainer import Trainer

        if network_function is None:
            network = Network(**spec.as_dict(), seed=seed)
        else:
            network = Network.from_function(input_shape, output_shape, network_function, seed=seed)
            shapes = ", ".join(f"{name} {array.shape}" for name, array in network.parameters.items())
            logger.info("network_function has %d arrays of parameters: %s", len(network.parameters), shapes or "none")
        trainer = Trainer(network, loss=loss, accuracy=accuracy, learning_rate=learning_rate, threads=training_threads)
        logger.info(
            "training %d parameters for %d batches of %d, with seed %d, %d simulator processes and %d threads",
            network.flat.weights.size, num_batches, batch_size, seed, workers, trainer.threads,
        )  # fmt: skip
        _run(trainer, stream, num_batches, batch_size, verbosity, training_summary, to_terminal=logfile == ".")
        model = Model(network, loss=loss, seed=seed, batches_trained=num_batches)
        if save_path is not None:
            model.save(save_path)
            logger.info("saved the model as %s", save_path)
    return model


def _open_stream(source: ExampleSource, workers: int, capacity: int, examples: int):
    if workers == 0:
        return SerialStream(source)
    return WorkerStream(source, workers=workers, capacity=capacity, stop=examples)


def _run(trainer, stream, num_batches, batch_size, verbosity, training_summary, *, to_terminal) -> None:
    """Train on the stream's batches, and report."""
    summary = Summary(training_summary, verbosity)
    report = progress(num_batches, batch_size, verbosity, to_terminal=to_terminal)
    try:
        for batch in range(num_batches):
            start = time.monotonic()
            data, labels = stream.next_batch(batch_size)
            waited = time.monotonic() - start
            try:
                loss, accuracy = trainer.step(data, labels)
            except FloatingPointError as error:
                examples = f"examples {batch * batch_size} to {(batch + 1) * batch_size - 1}"
                raise FloatingPointError(f"batch {batch} ({examples}): {error}") from None
            summary.update(batch, loss, accuracy)
            report.update(batch, loss, accuracy, waited)
    finally:
        report.close()
        summary.close()
