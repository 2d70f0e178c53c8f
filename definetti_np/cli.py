"""The command line ``definetti``: train, simulate, predict, scan and evaluate without writing Python around it.

A Python file says what to train: its names `simulator`, `encoder`, `classes` and every other argument of `train`, such
as `phi_net` or `num_batches`, are taken from it; `input_shape` follows from the encoder and `output_shape` from the
classes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .checks import shorten
from .errors import SimulatorError
from .files.paths import check_distinct_paths, check_parent, model_path
from .files.whole import write_whole
from .genomes.reader import read_haplotypes
from .logs import log_to
from .losses import check_loss
from .multiset import MultisetBatch
from .simulation.fill import simulate
from .simulation.source import Example, ExampleSource
from .specs import Spec, context_of_rows, function_spec, network_spec
from .status import describe_status
from .training import train

if TYPE_CHECKING:
    from .ensembles import Ensemble
    from .model import Model

LONGEST_MESSAGE = 600  # characters
CALIBRATION_BINS = 10  # of the calibration error
PLACES = {  # what stands behind the name of a command
    "info": "MODEL",
    "train": "FILE.py --output MODEL",
    "status": "MODEL",
    "simulate": "FILE.py (--output DATA.npz | --simulations FOLDER --stop N)",
    "predict": "MODEL DATA.npz --output TABLE",
    "scan": "MODEL GENOMES --output TABLE",
    "evaluate": "FILE.py MODEL",
}
GIVEN_BY_OPTIONS = ("save_path", "resume")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, None for those of the process; return its exit code.

    0 if all is well, 2 with one line on stderr if something is wrong, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        with log_to("."):
            options.command(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        sys.stderr.write(f"definetti: error: {_one_line(error)}\n")
        return 2
    return 0


def _one_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, SimulatorError) and error.reason is not None:
        text = f"{text.splitlines()[0]} {error.reason}"
    elif not isinstance(error, (ValueError, TypeError, OSError, ImportError, RuntimeError)):
        text = f"{type(error).__name__}: {text}"
    return shorten(" ".join(text.split()), LONGEST_MESSAGE)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"definetti: error: {message}; see its --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="definetti", description="Posterior inference along genomes with exchangeable neural networks."
    )
    version = sys.modules[__package__].__version__
    parser.add_argument("--version", action="version", version=f"definetti_np {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    info = _command(commands, "info", _info, "what a model is", "definetti info hotspots.npz")
    info.add_argument("model", help="model file")

    training = _command(
        commands, "train", _train, "train a network", "definetti train example/hotspots.py --output hotspots"
    )
    _add_file(training)
    _add_output(training, "model file")
    training.add_argument("--num-batches", type=int, help="training steps")
    training.add_argument("--seed", type=int, help="seed of the run")
    training.add_argument("--sim-threads", type=int, help="simulator processes (default: one per core)")
    training.add_argument("--training-threads", type=int, help="threads of the training (default: one per core)")
    training.add_argument("--simulations", metavar="FOLDER", help="of simulations to read, and to add to")
    training.add_argument("--follow", action="store_true", help="wait for simulations that other jobs add to it")
    training.add_argument("--resume", action="store_true", help="go on from the checkpoint beside the model")
    _add_logfile(training)

    status = _command(
        commands, "status", _status, "how far a run is, here or on another machine", "definetti status hotspots"
    )
    status.add_argument("model", help="the --output, or save_path, of the run")

    simulation = _command(
        commands,
        "simulate",
        _simulate,
        "simulate datasets",
        "definetti simulate example/hotspots.py --simulations sims --start 0 --stop 10000",
    )
    _add_file(simulation)
    _add_output(simulation, "file of arrays, data and labels", required=False)
    _add_examples(simulation, 100)
    simulation.add_argument("--simulations", metavar="FOLDER", help="a folder to train from, instead of --output")
    simulation.add_argument("--start", type=int, help="the first example for the folder (default 0)")
    simulation.add_argument("--stop", type=int, help="the end of its examples, which is not one of them")
    simulation.add_argument("--sim-threads", type=int, help="simulator processes (default: one per core)")
    _add_logfile(simulation)

    predict = _command(
        commands, "predict", _predict, "predict for datasets", "definetti predict hotspots.npz sims.npz --output p.tsv"
    )
    predict.add_argument("model", help="model file")
    predict.add_argument("data", help="an .npy of datasets, or an .npz whose array data holds them")
    _add_output(predict, "table")
    predict.add_argument("--threads", type=int, help="number of threads (default: one per core)")

    scan = _command(
        commands,
        "scan",
        _scan,
        "predict along a contig",
        "definetti scan hotspots.npz calls.vcf.gz --step 500 --output scan.tsv --bed hotspots.bed --plot scan.png",
    )
    scan.add_argument("model", help="model file")
    scan.add_argument("genomes", help="VCF, BCF, .trees or .tsz")
    _add_output(scan, "table")
    scan.add_argument("--bed", help="file of the calls")
    scan.add_argument("--bedgraph", help="file of the posterior")
    scan.add_argument("--plot", help="image of the posterior")
    scan.add_argument("--threshold", type=float, default=0.5, help="of the calls (default 0.5)")
    scan.add_argument("--step", type=float, default=500, help="bp between centres (default 500)")
    scan.add_argument("--at-snps", action="store_true", help="a centre between each two SNPs instead")
    scan.add_argument("--region", help="chr20, or chr20:1001-2000 as for samtools")
    scan.add_argument("--samples", help="names, with commas between, or a file with one a line")
    scan.add_argument("--accessible", metavar="BED", help="where sites are known")
    scan.add_argument("--inaccessible", metavar="BED", help="where they are not")
    scan.add_argument("--mask", help=argparse.SUPPRESS)
    scan.add_argument("--ancestral", help="REF, or the INFO field of the ancestral allele")
    scan.add_argument("--on-unphased", default="error", help="error, random or genotypes")
    scan.add_argument("--phase-seed", type=int, help="of a random phase")
    scan.add_argument("--prior", help="of the classes in the genome, such as 0.97,0.03")
    scan.add_argument("--threads", type=int, help="number of threads (default: one per core)")

    evaluate = _command(
        commands,
        "evaluate",
        _evaluate,
        "test a model on fresh simulations",
        "definetti evaluate example/hotspots.py hotspots.npz --number 500",
    )
    _add_file(evaluate)
    evaluate.add_argument("model", help="model file")
    _add_examples(evaluate, 500)
    return parser


def _command(commands: Any, name: str, run: Callable, about: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        usage=f"definetti {name} {PLACES[name]} [options]",
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run)
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.py", help="defines simulator, encoder, classes, phi_net, ...")


def _add_output(parser: argparse.ArgumentParser, what: str, *, required: bool = True) -> None:
    parser.add_argument("--output", required=required, help=what)
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def _add_logfile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--logfile", help="the log instead of stderr; its lines are JSON if it ends in .jsonl")


def _add_examples(parser: argparse.ArgumentParser, number: int) -> None:
    parser.add_argument("--number", type=int, default=number, help=f"how many (default {number})")
    parser.add_argument("--seed", type=int, help="seed of the simulations (default: one more than the model's, or 1)")


def _check_output(options: argparse.Namespace, *names: str, inputs: Mapping[str, str | Path | None]) -> None:
    """Raise an error before anything is computed, if a file cannot be written or is there and may not be replaced.

    What is read, `inputs` by name, is never replaced, and no file is written twice.
    """
    paths = {name: Path(value).expanduser() for name, value in inputs.items() if value is not None}
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        path = Path(value).expanduser().absolute()
        check_parent(path, f"--{name}")
        paths[f"--{name}"] = path
        check_distinct_paths(paths)
        if path.exists() and not options.force:
            raise ValueError(f"--{name}: {value} is there already; --force replaces it")


def _write_all(writers: Mapping[str, Callable[[str], object]]) -> None:
    """Write all files, each with its function of a path; or, if one cannot be written, none that was not there."""
    new = [path for path in writers if not os.path.lexists(Path(path).expanduser())]
    try:
        for path, write in writers.items():
            write(path)
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):
                Path(path).expanduser().unlink()
        raise


def _say(text: str) -> None:
    if sys.stdout is not None:  # it may be closed
        sys.stdout.write(f"{text}\n")


# The file of a user


def read_settings(path: str) -> dict[str, Any]:
    """The arguments of `train` that a Python file defines.

    Raises
    ------
    ValueError
        If it cannot be run, or names no simulator or no shapes.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{path}: there is no such file")
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} fails: {type(error).__name__}: {error}") from error
    known = [name for name in inspect.signature(train).parameters if name not in GIVEN_BY_OPTIONS]
    settings = {name: getattr(module, name) for name in known if hasattr(module, name)}
    if "simulator" not in settings:
        raise ValueError(f"{path}: it defines no simulator, a function that returns data and a label")
    if settings.get("encoder") is not None:
        settings.setdefault("input_shape", settings["encoder"].shape)
    if settings.get("classes") is not None:
        settings.setdefault("output_shape", (len(settings["classes"]),))
    for name, source in (("input_shape", "encoder"), ("output_shape", "classes")):
        if name not in settings:
            raise ValueError(f"{path}: it defines neither {name} nor {source}, from which it follows")
    return settings


def _examples(path: str, number: int, seed: int) -> Iterator[Example]:
    """Simulate examples as a run of this seed does."""
    if number < 1:
        raise ValueError(f"--number must be at least 1, got {number}")
    settings = read_settings(path)
    defaults = {name: p.default for name, p in inspect.signature(train).parameters.items()}
    value = defaults | settings
    shapes = value["input_shape"], value["output_shape"]
    context = context_of_rows(value["context"], value["input_shape"])
    spec: Spec
    named = {name: value[name] for name in ("label_range", "label_names")}
    if value["network_function"] is None:
        spec = network_spec(*shapes, value["phi_net"], value["g"], value["h_net"], context, **named)
    else:
        spec = function_spec(*shapes, value["network_function"], context, head=value["head"], **named)
    loss = check_loss(value["loss"], spec)
    source = ExampleSource(
        value["simulator"],
        seed,
        spec,
        loss if isinstance(loss, str) else None,
        value["on_simulator_error"],
        value["encoder"],
    )
    for index in range(number):
        yield source.example(index)


# The commands


def _info(options: argparse.Namespace) -> None:
    model = _load(options.model)
    _say(repr(model))
    _say(model.summary())
    _say(f"classes: {'none' if model.classes is None else ', '.join(model.classes)}")
    _say(f"encoder: {'none' if model.encoder is None else model.encoder}")
    number = 0 if model.sample is None else len(model.sample.numbers)
    _say(f"simulations by which it tells what is unusual: {number or 'none'}")


def _load(path: str) -> Model | Ensemble:
    from .ensembles import load_any  # not at the top, because simulator processes are forked before Numba is loaded

    return load_any(path)


def _train(options: argparse.Namespace) -> None:
    target = model_path(options.output, "--output")
    if target.exists() and not options.force and not options.resume:
        raise ValueError(f"--output: {target} is there already; --force replaces it")
    settings = read_settings(options.file)
    for name in ("num_batches", "seed", "sim_threads", "training_threads", "simulations", "logfile"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    if options.follow:
        settings["follow"] = True
    train(**settings, save_path=options.output, resume=options.resume)


def _status(options: argparse.Namespace) -> None:
    _say(describe_status(options.model))


def _simulate(options: argparse.Namespace) -> None:
    if (options.output is None) == (options.simulations is None):
        raise ValueError("give either --output, for a file, or --simulations, for a folder to train from")
    if options.simulations is not None:
        _fill(options)
        return
    for name in ("start", "stop", "sim_threads", "logfile"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} goes with --simulations, not with --output")
    _check_output(options, "output", inputs={"FILE.py": options.file})
    seed = 1 if options.seed is None else options.seed
    examples = list(_examples(options.file, options.number, seed))
    data = [np.repeat(example.rows, example.counts, axis=0) for example in examples]
    if len({len(rows) for rows in data}) > 1:
        raise ValueError("the simulator's datasets have different numbers of rows, which one array cannot hold")
    labels = np.array([example.label for example in examples])
    target = Path(options.output).expanduser().absolute()
    write_whole(target, lambda file: np.savez(file, data=np.array(data), labels=labels, seed=seed))
    _say(f"simulated {len(data):,} datasets of shape {data[0].shape} with seed {seed}: {options.output}")


def _fill(options: argparse.Namespace) -> None:
    """Simulate a range of examples into a folder; each task of a job array does one."""
    if options.stop is None:
        raise ValueError("--stop is missing: --simulations needs to know where its examples end")
    settings = read_settings(options.file)
    known = {name: settings[name] for name in inspect.signature(simulate).parameters if name in settings}
    seed = options.seed if options.seed is not None else settings.get("seed")
    known |= {
        "folder": options.simulations,
        "seed": 1 if seed is None else seed,
        "start": options.start or 0,
        "stop": options.stop,
        "logfile": options.logfile or ".",
    }
    if options.sim_threads is not None:
        known["sim_threads"] = options.sim_threads
    _say(str(simulate(**known)))


def _predict(options: argparse.Namespace) -> None:
    from .genomes.scan import UNUSUAL, value_names

    inputs = {"MODEL": model_path(options.model, "MODEL"), "DATA.npz": options.data}
    _check_output(options, "output", inputs=inputs)
    model = _load(options.model)
    try:
        stored = np.load(options.data, allow_pickle=False)
        data = stored if isinstance(stored, np.ndarray) else stored["data"]
    except OSError as error:
        raise ValueError(f"{options.data}: no array of datasets: {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile):
        raise ValueError(
            f"{options.data}: no array of datasets; an .npy is needed, or an .npz with an array named data"
        ) from None
    predictions, unusual = model.predict_with_unusual(data, options.threads)
    names = value_names(model.classes, predictions.shape[1], is_posterior=model.network.spec.ends_in_softmax)
    if unusual is not None:
        names = (*names, UNUSUAL)
        predictions = np.column_stack([predictions, unusual])
    lines = ["\t".join(["#dataset", *names])]
    lines += ["\t".join([str(i), *map(str, row)]) for i, row in enumerate(predictions)]
    target = Path(options.output).expanduser().absolute()
    write_whole(target, lambda file: file.write("".join(f"{line}\n" for line in lines).encode()))
    _say(f"predicted {len(predictions):,} datasets: {options.output}")


def _scan(options: argparse.Namespace) -> None:
    if options.mask is not None:
        raise ValueError("--mask does not say what the intervals are; give --accessible or --inaccessible")
    inputs = {name: getattr(options, name) for name in ("genomes", "accessible", "inaccessible", "samples")}
    inputs |= {"MODEL": model_path(options.model, "MODEL")}
    _check_output(options, "output", "bed", "bedgraph", "plot", inputs=inputs)
    model = _load(options.model)
    if model.encoder is None:
        raise ValueError(f"{options.model}: the model has no encoder, so it cannot scan; train with an encoder")
    if model.network.spec.ends_in_softmax and not 0 <= options.threshold <= 1:
        raise ValueError(f"--threshold must be a probability, between 0 and 1, got {options.threshold:g}")
    haplotypes = read_haplotypes(
        options.genomes,
        region=options.region,
        samples=_samples(options.samples),
        accessible=options.accessible,
        inaccessible=options.inaccessible,
        ancestral=options.ancestral,
        on_unphased=options.on_unphased,
        phase_seed=options.phase_seed,
    )
    scan = model.scan(
        haplotypes,
        step=options.step,
        at="snps" if options.at_snps else None,
        prior=None if options.prior is None else _numbers(options.prior),
        threads=options.threads,
    )
    writers: dict[str, Callable[[str], object]] = {}
    if options.plot is not None:  # the first, because it may lack matplotlib, and then nothing is to be written
        writers[options.plot] = lambda path: scan.plot(path, threshold=options.threshold)
    if options.bed is not None:
        writers[options.bed] = lambda path: scan.to_bed(path, threshold=options.threshold)
    if options.bedgraph is not None:
        writers[options.bedgraph] = scan.to_bedgraph
    _write_all(writers | {options.output: scan.to_tsv})
    _say(f"{scan}; {len(scan.calls(options.threshold)):,} calls above {options.threshold:g}: {options.output}")


def _samples(text: str | None) -> list[str] | None:
    if text is None:
        return None
    if Path(text).is_file():
        return Path(text).read_text("utf-8").split()
    return text.split(",")


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--prior must be numbers with commas between, such as 0.97,0.03, got {text!r}") from None


def _evaluate(options: argparse.Namespace) -> None:
    model = _load(options.model)
    seed = max(model.seeds) + 1 if options.seed is None else options.seed
    if seed in model.seeds:
        raise ValueError(f"--seed must be another one than that of the model's training, {seed}: it used its examples")
    examples = list(_examples(options.file, options.number, seed))
    batch = MultisetBatch.from_distinct([(example.rows, example.counts) for example in examples])
    labels = np.array([example.label for example in examples], np.float64)
    predictions = model.predict(batch).astype(np.float64)
    _say(f"{len(labels):,} fresh simulations with seed {seed}")
    if not model.network.spec.ends_in_softmax:
        _say(f"mean squared error       {np.mean(np.sum((predictions - labels) ** 2, axis=1)):.4g}")
        if model.network.head is not None:
            _report(model, batch, labels, seed)
        return
    is_right = predictions.argmax(axis=1) == labels.argmax(axis=1)
    cross_entropy = -np.mean(np.sum(labels * np.log(np.maximum(predictions, 1e-38)), axis=1))
    _say(f"accuracy                   {np.mean(is_right):.4f}")
    _say(f"cross-entropy              {cross_entropy:.4f}")
    _say(f"expected calibration error {calibration_error(predictions.max(axis=1), is_right):.4f}")
    _report(model, batch, labels, seed)


def _report(model: Model | Ensemble, batch: MultisetBatch, labels: np.ndarray, seed: int) -> None:
    """Say how well posteriors are calibrated, where there are examples enough to know."""
    from .diagnostics import evaluate  # not at the top, because simulator processes are forked before Numba is loaded
    from .diagnostics.bands import FEWEST_EXAMPLES

    if len(labels) >= FEWEST_EXAMPLES:
        _say(str(evaluate(model.posterior(batch), labels, seed=seed)))


def calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """The expected calibration error: the gap of confidence and accuracy (B,) in bins of confidence, weighted by size.

    Guo et al. (2017), section 2.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(np.sum(confidence[bins == b] - is_right[bins == b])) for b in range(CALIBRATION_BINS)]
    return float(np.sum(gaps) / len(confidence))
