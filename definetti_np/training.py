"""Training on data that is simulated on the fly."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from .cores import describe_cores
from .files.elsewhere import save_or_keep
from .files.lock import only_run
from .interruption import Interruption
from .logs import log_to
from .run import Run, collect, find_start, hold_validation, remember
from .settings import TrainSettings
from .simulation.stream import open_stream
from .simulation.worker_process import refuse_to_train_while_starting

if TYPE_CHECKING:
    from .genomes.encoder import HaplotypeEncoder
    from .genomes.likeness import LikeData
    from .genomes.unusual import Collector, Sample
    from .model import Model
    from .trainer import Trainer

logger = logging.getLogger("definetti_np")

# Nothing imported above imports Numba: worker processes are forked before it is loaded.


def train(
    input_shape: Sequence[int | None],
    output_shape: Sequence[int],
    simulator: Callable | None,
    phi_net: Sequence[Sequence] = (("fc", 1024), ("fc", 1024)),
    g: Sequence = ("max",),
    h_net: Sequence[Sequence] = (("fc", 512), ("softmax",)),
    network_function: Callable | None = None,
    loss: str | Callable = "cross-ent",
    accuracy: str | Callable | None = "auto",
    num_batches: int = 20000,
    batch_size: int = 50,
    queue_capacity: int | None = None,
    verbosity: int = 100,
    training_threads: int | None = None,
    sim_threads: int | None = None,
    save_path: str | os.PathLike | None = None,
    training_summary: str | os.PathLike | None = None,
    logfile: str | os.PathLike | None = ".",
    *,
    context: Sequence = (),
    seed: int | None = None,
    learning_rate: float = 0.001,
    schedule: str | Callable = "constant",
    averaging: float | None = None,
    weight_decay: float = 0.0,
    max_gradient_norm: float | None = None,
    reuse: int = 0,
    reuse_capacity: int | None = None,
    augment: Callable | None = None,
    validation: int = 0,
    keep: str = "last",
    patience: int | None = None,
    initial: Model | str | os.PathLike | None = None,
    metadata: dict | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    simulator_timeout: float | None = None,
    on_simulator_error: str = "raise",
    max_redraw_fraction: float = 0.1,
    worker_max_examples: int | None = None,
    start_method: str | None = None,
    executor: Executor | Callable[[], Executor] | None = None,
    check_randomness: bool = True,
    check_versions: bool = True,
    simulations: str | os.PathLike | None = None,
    simulations_version: str | int | None = None,
    follow: bool = False,
    encoder: HaplotypeEncoder | LikeData | None = None,
    classes: Sequence[str] | None = None,
    label_range: Sequence[tuple[float, float]] | None = None,
    label_names: Sequence[str] | None = None,
    head: Sequence | None = None,
) -> Model:
    """Train an exchangeable neural network on data that is simulated on the fly (Chan et al. 2018).

    The arguments are those of the original defiNETti, up to `logfile`; the others are keywords.

    Ctrl-C, SIGTERM, SIGHUP (the terminal is closed) and SIGXCPU (a limit of processor time) end training after the
    batch, or at once while it waits for simulations, with a checkpoint, as KeyboardInterrupt or SystemExit(128 + number
    of the signal), 143 for SIGTERM; SIGUSR1 writes a checkpoint, and training goes on. A second Ctrl-C ends it at once.
    Signals that are ignored, as under nohup, stay so. This holds in the main thread; elsewhere signals are left alone.

    Parameters
    ----------
    input_shape
        Shape of the simulator's data: ``(n, W)`` or ``(n, W, C)``, rows, width, channels; ``n`` may be None for any
        number of rows (not with ``g=("sort",)``).
    output_shape
        Shape of the label, ``(N,)``.
    simulator
        Function that returns a tuple (data, label) of NumPy arrays; with an `encoder` data may be a tree sequence. With
        an argument it receives a `numpy.random.Generator`; without one it finds `numpy.random` and `random` seeded.
        Either way example i is a function of (seed, i). None trains on what is in `simulations`.
    phi_net
        Layers for each row, ``("conv", width, channels)`` and ``("fc", nodes)``, each with ReLU.
    g
        Symmetric function of the rows: ``("max",)``, ``("sort",)``, ``("top_k", k)`` or ``("moments", m1, m2, ...)``;
        or a list of several, whose results become channels one after another.
    h_net
        Layers after it, the last one ``("matmul",)`` or ``("softmax",)``, or a head, which describes a posterior of
        continuous labels: ``("quantiles", q1, q2, ...)``, ``("gaussian",)``, ``("mixture", K)`` or
        ``("spline", bins)``; see docs/posteriors.md.
    network_function
        A network of your own: a function of features, written with `definetti_np.ops` and `definetti_np.layers`, that
        returns a Tensor (B, M); the documentation has examples. Then phi_net, g and h_net are ignored, and
        predictions are what it returns.
    loss
        "cross-ent" with softmax (a network function ends in `ops.log_softmax`), "l2" with matmul; a head has its own,
        "nll" or "pinball", which takes the place of "cross-ent"; or a function
        ``loss(prediction, label)`` of a Tensor (B, M) and an array (B, N) that returns a Tensor with one number.
    accuracy
        "classification" (largest prediction at the largest label), None for the loss, or a function
        ``accuracy(prediction, label)`` of arrays that returns a number. "auto" is None under the loss "l2", and
        "classification" else.
    num_batches
        Number of training steps.
    batch_size
        Examples in a batch.
    queue_capacity
        Examples that may be simulated ahead, at least `batch_size`. None for 250, or with an executor for as many as
        keep all its workers busy; the log says how many.
    verbosity
        Report every this many batches.
    training_threads
        Threads of the training, None for every core of this process.
    sim_threads
        Simulator processes, None for one per core of this process, 0 to simulate in this process.
    save_path
        Base name of the model file; ``.npz`` is added. None saves nothing.
    training_summary
        Text file of lines ``<batch> <loss> <accuracy>``, one every `verbosity` batches. None writes none. With `reuse`
        two more columns follow, the running means of the loss of new examples, before the step on them, and of reused
        ones; with `validation` four more, loss, its standard error, accuracy and its standard error.
    logfile
        "." for stderr, a path, or None for silence. The lines of a file whose name ends in ``.jsonl`` are JSON, with
        the numbers of the run by name; see docs/clusters.md.
    context
        Numbers of the whole dataset at each position, which every row gets as further channels: a list of
        ``("distinct", w1, ...)``, ``("effective", w1, ...)``, ``("frequency",)``, ``("ld", a1, ...)``,
        ``("four_gametes", a1, ...)``, ``("moments", m1, ...)``, and functions of a dataset's distinct rows,
        ``(rows (U, W, C), counts (U,)) -> (W, k)``; see docs/context.md.
    seed
        Non-negative integer from which everything random follows: the same seed gives the same model, bit for bit,
        whatever the numbers of threads and processes. None draws one; it is in the log and in the model.
    learning_rate
        Step size of Adam.
    schedule
        How the step size changes: "constant"; "cosine", which rises in the first 5 % of the run and then falls to zero
        as half a cosine; or a function of the fraction of the steps that is done, between 0 and 1, whose result the
        step size is multiplied by.
    averaging
        A decay between 0 and 1, such as 0.999, or None. With it the model gets the average of the weights after all
        steps, in which those of k steps ago count ``averaging**k``; training goes on with the weights themselves.
    weight_decay
        The part of each weight, times the step size, that is taken away at each step (decoupled, as in AdamW).
    max_gradient_norm
        A gradient that is longer than this, all parameters taken together, is scaled to this length. None for no limit.
    reuse
        So many more steps after each batch of new examples, each on a batch that is drawn at random from all examples
        so far, without replacement. What is drawn is a function of the seed and the step.
    reuse_capacity
        How many examples are held to draw from, the newest ones. None: as many as take 1 GiB as distinct rows, some
        130,000 of the hotspot example at 8 KB each.
    augment
        A function ``(rows (U, W, C), counts (U,), rng) -> (rows, counts)`` that changes the distinct rows of a dataset
        without changing what its label should be, such as those of `definetti_np.augment`. It is applied at each use
        of an example anew, with a `numpy.random.Generator` that is a function of the seed, the step and the place in
        the batch. Predictions use data as it is.
    validation
        So many examples that training never sees (of their own seeds, see `simulate_example`) are simulated first and
        held. Every `verbosity` batches, after the steps, and at the end, loss and accuracy of the weights of the model
        on them go to the log, the summary and `Model.history`, with their standard errors.
    keep
        Which weights the model gets: the "last", or the "best" by the loss on the validation examples.
    patience
        Training ends after so many evaluations in a row that are not better than the best before. None for never.
    initial
        A `Model`, or the path of one or of a checkpoint, with whose weights training begins. Its network must have the
        same layers; the number of rows may be another one.
    metadata
        A dict of plain JSON that `Model.metadata` and the model file are to hold, such as the names of the classes.
    checkpoint_every
        Write a checkpoint beside the model, ``<save_path>.checkpoint.npz``, every this many batches. None: about
        once a minute. The last one is written when training ends.
    resume
        Whether to go on from the checkpoint of `save_path`, to the model that an undisturbed run ends with, bit for
        bit; without one, training starts afresh. The arguments must be those of the checkpoint, except for
        `num_batches` (under a constant schedule), the numbers of threads and processes, `queue_capacity`, `verbosity`,
        `checkpoint_every`, `metadata`, and the log. A warning says if the source of the simulator has changed. `seed`
        may be None. With another `verbosity`, new lines of the summary come at its interval; it must be the same with
        `patience` or `keep`. With `reuse`, the examples to draw from are simulated again first.
    simulator_timeout
        Seconds that one example may take. After that its simulator process is killed, with what it has started, and
        the example simulated again, three times in all. None for no limit.
    on_simulator_error
        "raise" ends training when the simulator raises. "redraw" draws that example again with its next seed, also if
        data or label are NaN or infinite, and counts the reasons. That changes the prior: the network learns from
        the parameters at which the simulator succeeds. An example that fails 100 times ends training.
    max_redraw_fraction
        The fraction of draws that may fail under "redraw", judged from the 200th draw on.
    worker_max_examples
        Examples after which a simulator process is replaced by a new one, against slow leaks of memory. None for never.
    start_method
        How simulator processes start, "fork", "spawn" or "forkserver" as in `multiprocessing`; None for fork where the
        platform has it. With the others the simulator must be a function that can be imported.
    executor
        An executor of `concurrent.futures`, or one with the same futures such as that of a Dask client's
        ``get_executor()``, to simulate with instead of processes of our own. It stays open, and what it raises ends
        training. Or a function without arguments that makes one: it is made anew when it breaks because a process was
        lost, and closed in the end.
    check_randomness
        Whether to simulate the first two examples twice before training, in two processes if there are, and to warn if
        they differ: then the simulator has randomness that is not the seed's.
    check_versions
        Whether an executor's workers must have the versions of NumPy, msprime and this package that are here.
    simulations
        Folder of a store: what is simulated is written there, and what is there is read instead of simulated, to the
        same bits; see docs/simulations_store.md. It is made if it does not exist. The folder is of one simulator (by
        its name), `simulations_version`, seed and shape of data and labels. With ``simulator=None`` all examples have
        to be there. Then, and for ``seed=None``, the seed is that of the store. A disk that fails does not end
        training: the simulations wait in memory, and the log says which of them were not written in the end.
    simulations_version
        Text or integer that says which version of the simulator this is, for a store; change it when the simulator
        draws other data under the same name.
    follow
        Whether to wait for examples that `simulations` lacks, because other processes add them, such as those of a job
        array, instead of simulating them here.
    encoder
        What encodes real data for this network, a `HaplotypeEncoder` of this `input_shape`; it is stored in the model,
        for `Model.scan`. The simulator may then return a tree sequence or `Haplotypes` in place of an array: the SNPs
        around its middle are encoded. With ``encoder.like(haplotypes)`` they are masked as these data are before.
    classes
        The names of the numbers of a label, such as ``("flat", "hotspot")``; they are stored in the model.
    label_range
        The lowest and the highest value of each number of a label, ``[(low, high), ...]``, where h_net ends in a head:
        the box of the prior. Labels are scaled by it, and a label outside of it ends training. A spline needs it.
    label_names
        The names of the numbers of a label, where h_net ends in a head, such as ``("log10 Ne", "growth")``.
    head
        A head behind a `network_function`, such as ``("spline", 8)``: a dense layer of what the function returns
        describes a posterior of continuous labels. Layer lists have it as the last layer of h_net instead.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    ValueError, TypeError
        If an argument is wrong, or not that of the checkpoint to resume from, before anything is simulated.
    ModelFileError
        If there are checkpoints to resume from, and all are damaged.
    RuntimeError
        If another run trains this `save_path`; the message says which.
    SimulatorError
        If the simulator fails, or returns something that does not fit; with the example's index and seed. If
        examples of the first batch are equal, because the simulator does not use the randomness it is given. If
        simulator processes do not start, or three of them died at one example.
    FloatingPointError
        If the loss or the gradient becomes NaN or infinite.
    OSError
        If the model cannot be written when training has ended. It is then written to your home folder, or that of
        temporary files; the message says where, and whether a checkpoint finishes with ``resume=True``. The error's
        attribute `model` is the trained `Model`.
    """
    settings = TrainSettings.checked(**locals())
    if settings.streams.starts_processes:
        refuse_to_train_while_starting()  # before the lock, which the script that starts the processes holds
    checkpoints = settings.checkpoints()
    lock = None if checkpoints is None else checkpoints.lock
    with log_to(settings.logfile), Interruption() as interruption, only_run(lock) as holder:
        start = find_start(checkpoints, settings)
        if start is not None:
            settings = settings.with_seed(start.run["seed"])
        batches, redraws = (0, {}) if start is None else (start.batches, start.redraws)
        examples = range(batches * settings.batch_size, settings.num_batches * settings.batch_size)
        waiting = interruption.waiting(  # there is nothing to save yet
            lambda: None, lambda: holder.tell("simulating what it needs before its first batch")
        )
        store = settings.open_store()
        held = hold_validation(settings, waiting)
        memory = remember(settings, start, waiting, store)
        collector = collect(settings, start, waiting, store)
        with open_stream(settings.source(), settings.streams, examples, redraws, waiting, store) as stream:
            # Only now, because workers are forked from a process that has neither Numba nor its threads.
            from .model import Model

            trainer = _make_trainer(settings)
            run = Run(settings, trainer, stream, memory, collector, held, checkpoints, start, holder)
            run.train(interruption)
        model = Model(
            trainer.network,
            loss=settings.loss,
            seed=settings.seed,
            batches_trained=run.batches,
            history=run.history(),
            info=run.info(),
            metadata=settings.metadata,
            encoder=None if encoder is None else encoder.plain(),
            classes=settings.classes,
            sample=_sample(collector, trainer),
        )
        if settings.save_path is not None and checkpoints is not None:
            save_or_keep(model, settings.save_path, what_finishes=checkpoints.what_finishes(run.batches))
    return model


def _sample(collector: Collector, trainer: Trainer) -> Sample | None:
    """What the first simulations look like to the trained network."""
    from .kernels._jit import threads  # not before there are workers: see above

    with threads(trainer.threads):
        return collector.sample(trainer.network.hidden)


def _make_trainer(settings: TrainSettings) -> Trainer:
    """Build the network with its initial weights, and what trains it."""
    from .network import Network  # not before there are workers: see above
    from .trainer import Trainer

    spec = settings.spec
    if settings.network_function is None:
        network = Network(**{**spec.as_dict(), "context": settings.context}, seed=settings.seed)
    else:
        given = {"network_function": settings.network_function, "context": settings.context}
        network = Network.from_function(**{**spec.as_dict(), **given}, seed=settings.seed)
        shapes = ", ".join(f"{name} {array.shape}" for name, array in network.parameters.items())
        logger.info("network_function has %d arrays of parameters: %s", len(network.parameters), shapes or "none")
    if settings.initial is not None:
        settings.initial.put_into(network)
    trainer = Trainer(
        network,
        loss=settings.loss,
        accuracy=settings.accuracy,
        threads=settings.training_threads,
        **settings.steps.for_trainer(),
    )
    logger.info("this process may use %s", describe_cores())
    logger.info(
        "training %d parameters for %d batches of %d, with seed %d, %s and %d threads",
        network.flat.weights.size, settings.num_batches, settings.batch_size, settings.seed, settings.streams,
        trainer.threads,
    )  # fmt: skip
    return trainer
