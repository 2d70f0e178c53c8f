"""The arguments of `train`, checked, with their defaults worked out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import as_integer, name_of, qualified_name
from .files.checkpoint import Checkpoints
from .files.paths import check_distinct_paths, check_parent, check_text_file, model_path
from .losses import check_accuracy, check_loss
from .provenance import check_metadata
from .reuse import Memory, ReuseSettings
from .schedules import StepSettings
from .seeds import check_seed
from .simulation.source import ExampleSource, takes_generator
from .simulation.stream import StreamSettings
from .specs import Spec, function_spec, network_spec
from .validation import ValidationSettings
from .warm_start import InitialWeights

ON_SIMULATOR_ERROR = ("raise", "redraw")


@dataclass(frozen=True)
class TrainSettings:
    """How to train: the arguments of `train` of the same names, as `checked` makes them of what a user gives.

    Attributes
    ----------
    spec
        The network that `input_shape`, `output_shape` and the layer lists or `network_function` describe.
    seed, has_own_seed
        The seed, and whether the user gave it; otherwise it is drawn here, and a resumed run takes the checkpoint's.
    save_path
        The model file.
    steps, reuse, validation, streams
        How steps are taken, how often examples are used, how a run is evaluated, how examples are simulated.
    """

    spec: Spec
    network_function: Callable | None
    simulator: Callable
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
    save_path: Path | None
    checkpoint_every: int | None
    resume: bool
    training_summary: Path | None
    logfile: str | Path | None

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
        **stream_arguments: Any,
    ) -> TrainSettings:
        """Check the arguments of `train`; those that are not named here are `StreamSettings.checked`'s.

        Raises
        ------
        ValueError, TypeError
            If one of them is wrong, or does not go with another one.
        """
        spec: Spec
        if network_function is None:
            spec = network_spec(input_shape, output_shape, phi_net, g, h_net)
        else:
            spec = function_spec(input_shape, output_shape, network_function)
        takes_generator(simulator)
        check_loss(loss, spec)
        accuracy = check_accuracy(accuracy, loss)
        num_batches = as_integer(num_batches, "num_batches", minimum=1)
        batch_size = as_integer(batch_size, "batch_size", minimum=1)
        streams = StreamSettings.checked(**stream_arguments)
        if batch_size > streams.queue_capacity:
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
        if on_simulator_error not in ON_SIMULATOR_ERROR:
            choices = ", ".join(map(repr, ON_SIMULATOR_ERROR))
            raise ValueError(f"on_simulator_error: unknown choice {on_simulator_error!r}; choose from {choices}")
        if logfile not in (None, "."):
            logfile = Path(logfile).expanduser()
            check_text_file(logfile, "logfile")
        settings = cls(
            spec=spec,
            network_function=network_function,
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
            has_own_seed=seed is not None,
            on_simulator_error=on_simulator_error,
            streams=streams,
            **_check_files(save_path, checkpoint_every, resume),
            training_summary=_check_summary(training_summary),
            logfile=logfile,
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
            "simulator": qualified_name(self.simulator),
            "on_simulator_error": self.on_simulator_error,
            **self.steps.describe(self.num_batches),
            **self.reuse.describe(),
            **self.validation.describe(self.verbosity),
            **({} if self.initial is None else {"initial": self.initial.digest}),
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

    def source(self) -> ExampleSource:
        """What simulates an example."""
        return ExampleSource(self.simulator, self.seed, self.spec, name_of(self.loss), self.on_simulator_error)

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
    if not isinstance(resume, bool):
        raise TypeError(f"resume must be True or False, got {resume!r}")
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
    training_summary = Path(training_summary).expanduser().absolute()
    check_text_file(training_summary, "training_summary", is_replaced=True)
    return training_summary
