"""The arguments of `train`, checked, with their defaults worked out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import as_bool, as_integer, name_of, qualified_name
from .context import Context
from .files.checkpoint import Checkpoints
from .files.paths import as_path, check_distinct_paths, check_parent, check_text_file, model_path
from .genomes.encoder import check_classes, check_encoder, name_with_encoder
from .losses import check_accuracy, check_loss
from .provenance import check_metadata
from .reuse import Memory, ReuseSettings
from .schedules import StepSettings
from .seeds import check_seed
from .simulation.ranges import MOST_EXAMPLES
from .simulation.source import ExampleSource, check_on_error, takes_generator
from .simulation.store import Store, StoreSettings
from .simulation.stream import StreamSettings
from .specs import Spec, context_of_rows, function_spec, network_spec
from .validation import ValidationSettings
from .warm_start import InitialWeights


@dataclass(frozen=True)
class TrainSettings:
    """How to train: the arguments of `train` of the same names, as `checked` makes them of what a user gives.

    Attributes
    ----------
    spec
        The network that `input_shape`, `output_shape`, `context` and the layer lists or `network_function` describe.
    seed, has_own_seed
        The seed, and whether the user gave it; otherwise it is drawn here, and a resumed run takes the checkpoint's.
    save_path
        The model file.
    steps, reuse, validation, streams
        How steps are taken, how often examples are used, how a run is evaluated, how examples are simulated.
    store
        Where simulations are kept; then the simulator may be None.
    """

    spec: Spec
    network_function: Callable | None
    context: Context
    simulator: Callable | None
    loss: str | Callable
    accuracy: str | Callable | None
    num_batches: int
    batch_size: int
    verbosity: int
    training_threads: int | None
    steps: StepSettings
    reuse: ReuseSettings
    validation: ValidationSettings
    metadata: dict[str, Any]
    initial: InitialWeights | None
    seed: int
    has_own_seed: bool
    on_simulator_error: str
    streams: StreamSettings
    store: StoreSettings | None
    save_path: Path | None
    checkpoint_every: int | None
    resume: bool
    training_summary: Path | None
    logfile: str | Path | None
    encoder: Any = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def checked(
        cls,
        *,
        input_shape: Any,
        output_shape: Any,
        simulator: Any,
        phi_net: Any,
        g: Any,
        h_net: Any,
        network_function: Any,
        context: Any,
        loss: Any,
        accuracy: Any,
        num_batches: Any,
        batch_size: Any,
        verbosity: Any,
        training_threads: Any,
        save_path: Any,
        training_summary: Any,
        logfile: Any,
        seed: Any,
        learning_rate: Any,
        schedule: Any,
        averaging: Any,
        weight_decay: Any,
        max_gradient_norm: Any,
        reuse: Any,
        reuse_capacity: Any,
        augment: Any,
        validation: Any,
        keep: Any,
        patience: Any,
        metadata: Any,
        initial: Any,
        checkpoint_every: Any,
        resume: Any,
        on_simulator_error: Any,
        simulations: Any,
        simulations_version: Any,
        follow: Any,
        encoder: Any = None,
        classes: Any = None,
        label_range: Any = None,
        label_names: Any = None,
        head: Any = None,
        **stream_arguments: Any,
    ) -> TrainSettings:
        """Check the arguments of `train`; those that are not named here are `StreamSettings.checked`'s.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or does not go with another one.
        """
        spec: Spec
        context = context_of_rows(context, input_shape)
        context.check_functions()
        named = {"label_range": label_range, "label_names": label_names}
        if network_function is None:
            if head is not None:
                raise ValueError(f"head is for a network_function; let h_net end in {head!r}")
            spec = network_spec(input_shape, output_shape, phi_net, g, h_net, context, **named)
        else:
            spec = function_spec(input_shape, output_shape, network_function, context, head=head, **named)
        store = StoreSettings.of_training(simulations, simulations_version, simulator, follow)
        if store is None or simulator is not None:
            takes_generator(simulator)
        has_own_seed = seed is not None
        if store is not None and store.found is not None and seed is None:
            seed = store.found.seed
        check_encoder(encoder, spec.input_shape)
        loss = check_loss(loss, spec)
        accuracy = check_accuracy(accuracy, loss)
        num_batches = as_integer(num_batches, "num_batches", minimum=1)
        batch_size = as_integer(batch_size, "batch_size", minimum=1)
        if num_batches * batch_size > MOST_EXAMPLES:
            raise ValueError(
                f"num_batches times batch_size must be at most {MOST_EXAMPLES}, the largest index of an example, got "
                f"num_batches={num_batches} and batch_size={batch_size}"
            )
        streams = StreamSettings.checked(**stream_arguments)
        if streams.queue_capacity is not None and batch_size > streams.queue_capacity:
            raise ValueError(
                f"batch_size must be at most queue_capacity, got batch_size={batch_size} and "
                f"queue_capacity={streams.queue_capacity}; raise queue_capacity"
            )
        verbosity = as_integer(verbosity, "verbosity", minimum=1)
        if training_threads is not None:
            training_threads = as_integer(training_threads, "training_threads", minimum=1)
        steps = StepSettings.checked(
            learning_rate=learning_rate,
            schedule=schedule,
            averaging=averaging,
            weight_decay=weight_decay,
            max_gradient_norm=max_gradient_norm,
        )
        check_on_error(on_simulator_error)
        if logfile not in (None, "."):
            logfile = as_path(logfile, "logfile")
            check_text_file(logfile, "logfile")
        settings = cls(
            spec=spec,
            network_function=network_function,
            context=context,
            simulator=simulator,
            loss=loss,
            accuracy=accuracy,
            num_batches=num_batches,
            batch_size=batch_size,
            verbosity=verbosity,
            training_threads=training_threads,
            steps=steps,
            reuse=ReuseSettings.checked(
                reuse=reuse, reuse_capacity=reuse_capacity, augment=augment, batch_size=batch_size
            ),
            validation=ValidationSettings.checked(validation=validation, keep=keep, patience=patience, spec=spec),
            metadata=check_metadata(metadata),
            initial=InitialWeights.checked(initial, spec),
            seed=check_seed(seed),
            has_own_seed=has_own_seed,
            on_simulator_error=on_simulator_error,
            streams=streams,
            store=store,
            **_check_files(save_path, checkpoint_every, resume),
            training_summary=_check_summary(training_summary),
            logfile=logfile,
            encoder=encoder,
            classes=check_classes(classes, spec.output_shape),
        )
        check_distinct_paths(settings.files())
        return settings

    def with_seed(self, seed: int) -> TrainSettings:
        """The same settings with another seed."""
        return dataclasses.replace(self, seed=seed)

    def describe_run(self) -> dict:
        """What must be the same when a run is resumed, by argument."""
        return {
            "network": self.spec.as_dict(),
            "loss": name_of(self.loss),
            "accuracy": name_of(self.accuracy),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "simulator": self.simulator_name,
            "on_simulator_error": self.on_simulator_error,
            **self.steps.describe(self.num_batches),
            **self.reuse.describe(),
            **self.validation.describe(self.verbosity),
            **(
                {}
                if self.initial is None
                else {"initial": self.initial.digest, "initial_seeds": list(self.initial.seeds)}
            ),
            **({} if self.encoder is None else {"encoder": self.encoder.as_dict() | {"data": self.encoder.digest()}}),
        }

    @property
    def num_steps(self) -> int:
        """How many steps are taken if the run goes to its end."""
        return self.num_batches * self.steps_per_batch

    @property
    def steps_per_batch(self) -> int:
        """How many steps come with each batch of new examples."""
        return 1 + self.reuse.reuse

    def memory(self, first: int) -> Memory | None:
        """What remembers examples from `first` on; None without reuse."""
        if not self.reuse.reuse:
            return None
        return Memory(self.seed, self.batch_size, self.reuse.reuse_capacity, first)

    @property
    def simulator_name(self) -> str:
        """The name of the simulator, also of one that has made a store and is not there."""
        if self.simulator is None and self.store is not None and self.store.found is not None:
            return self.store.found.simulator
        return name_with_encoder(qualified_name(self.simulator), self.encoder)

    def open_store(self) -> Store | None:
        """Open the store of simulations, if there is to be one."""
        if self.store is None:
            return None
        return self.store.open(self.simulator_name, self.seed, self.spec.row_shape, self.spec.output_shape)

    def source(self) -> ExampleSource:
        """What simulates an example."""
        return ExampleSource(
            self.simulator, self.seed, self.spec, name_of(self.loss), self.on_simulator_error, self.encoder
        )

    def validation_source(self) -> ExampleSource:
        """What simulates an example that training never sees."""
        return dataclasses.replace(self.source(), is_validation=True)

    def checkpoints(self) -> Checkpoints | None:
        """The checkpoints beside the model; None without a save_path."""
        return None if self.save_path is None else Checkpoints(self.save_path, every=self.checkpoint_every)

    def files(self) -> dict[str, Path]:
        """All files of the run, by what they are."""
        checkpoints = self.checkpoints()
        files = {} if checkpoints is None else checkpoints.files
        if self.training_summary is not None:
            files["training_summary"] = self.training_summary
        if isinstance(self.logfile, Path):
            files["logfile"] = self.logfile
        return files


def _check_files(save_path: Any, checkpoint_every: Any, resume: Any) -> dict[str, Any]:
    if checkpoint_every is not None:
        checkpoint_every = as_integer(checkpoint_every, "checkpoint_every", minimum=1)
    resume = as_bool(resume, "resume")
    if save_path is not None:
        save_path = model_path(save_path, "save_path")
        check_parent(save_path, "save_path")
        if save_path.stem.endswith((".checkpoint", ".checkpoint.previous")):
            raise ValueError(
                f"save_path must not end in .checkpoint, as the checkpoints of another run do; got {save_path.stem!r}"
            )
        checkpoints = Checkpoints(save_path, every=checkpoint_every)
        for path in (checkpoints.path, checkpoints.previous):
            check_parent(path, "save_path")
    else:
        for name, is_wanted in (("checkpoint_every", checkpoint_every is not None), ("resume", resume)):
            if is_wanted:
                raise ValueError(f"{name} needs a save_path, beside which the checkpoints are; got save_path=None")
    return {"save_path": save_path, "checkpoint_every": checkpoint_every, "resume": resume}


def _check_summary(training_summary: Any) -> Path | None:
    if training_summary is None:
        return None
    training_summary = as_path(training_summary, "training_summary").absolute()
    check_text_file(training_summary, "training_summary", is_replaced=True)
    return training_summary
