"""The command line: what it writes, and what it says where something is wrong."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msprime
import numpy as np
import pytest
from sessions import PACKAGES, search_path

import definetti_np
from definetti_np import Scan, load
from definetti_np.cli import calibration_error, main

FILE = """
import msprime
import numpy as np
from definetti_np import HaplotypeEncoder

encoder = HaplotypeEncoder(snps=6, haplotypes=8, distance_scale=4e-4)
classes = ("cold", "hot")
phi_net = [("conv", 2, 4)]
h_net = [("softmax",)]
num_batches = 2
batch_size = 4
sim_threads = 0

def simulator(rng):
    label = rng.integers(2)
    trees = msprime.sim_ancestry(
        4, population_size=1e4, sequence_length=20_000, recombination_rate=1e-8 * (1 + 9 * label),
        random_seed=rng.integers(1, 2**31),
    )
    return msprime.sim_mutations(trees, rate=4e-8, random_seed=rng.integers(1, 2**31)), np.eye(2)[label]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a file of settings, a model of it and a VCF."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "settings_of_cli.py").write_text(FILE)
    trees = msprime.sim_ancestry(
        4, population_size=1e4, sequence_length=100_000, recombination_rate=1e-8, random_seed=1
    )
    trees = msprime.sim_mutations(trees, rate=2e-8, random_seed=2)
    with open(folder / "data.vcf", "w") as file:
        trees.write_vcf(file, contig_id="chr1", position_transform=lambda x: np.array(x) + 1)
    assert main(["train", str(folder / "settings_of_cli.py"), "--output", str(folder / "m"), "--seed", "3"]) == 0
    return folder


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


def test_train__is_what_the_file_says(folder):
    model = load(folder / "m")
    assert (model.seed, model.batches_trained, model.classes) == (3, 2, ("cold", "hot"))
    assert model.encoder.snps == 6


def test_info__says_what_a_model_is(folder, capsys):
    code, out, _ = run(capsys, "info", folder / "m.npz")
    assert code == 0
    assert "classes: cold, hot" in out
    assert "encoder: HaplotypeEncoder(snps=6" in out
    assert "what is unusual: none" in out


def test_scan__writes_what_the_library_computes(folder, capsys, tmp_path):
    files = {name: tmp_path / f"scan.{name}" for name in ("tsv", "bed", "bedgraph")}
    arguments = ["scan", folder / "m", folder / "data.vcf", "--output", files["tsv"], "--step", 1000]
    arguments += ["--bed", files["bed"], "--bedgraph", files["bedgraph"], "--prior", "0.9,0.1", "--threshold", 0.05]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert out.startswith("Scan of chr1:0-100,001 at 101 places")
    assert "haplotypes on chr1 from" in err
    scan = Scan.read(files["tsv"])
    haplotypes = definetti_np.read_haplotypes(folder / "data.vcf")
    expected = load(folder / "m").scan(haplotypes, step=1000, prior=(0.9, 0.1))
    np.testing.assert_array_equal(scan.values, expected.values)
    assert len(files["bed"].read_text().splitlines()) == len(expected.calls(0.05))
    assert files["bedgraph"].exists()

    before = files["tsv"].read_bytes()
    code, _, err = run(capsys, *arguments)
    assert (code, err) == (2, f"definetti: error: --output: {files['tsv']} is there already; --force replaces it\n")
    code, _, _ = run(capsys, *arguments, "--force", "--at-snps")
    assert code == 0
    assert files["tsv"].read_bytes() != before


def test_simulate__into_a_folder_that_is_trained_from(folder, capsys, tmp_path):
    for start, stop in ((4, 8), (0, 4)):  # two tasks of a job array
        code, out, err = run(
            capsys, "simulate", folder / "settings_of_cli.py", "--simulations", tmp_path / "sims", "--seed", 3,
            "--start", start, "--stop", stop, "--logfile", tmp_path / "log.jsonl",
        )  # fmt: skip
        assert code == 0, err
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["examples"], line["of"]) for line in lines if "of" in line] == [(4, 4), (4, 4)]
    assert len(definetti_np.Simulations(tmp_path / "sims")) == 8
    code, _, err = run(
        capsys, "train", folder / "settings_of_cli.py", "--simulations", tmp_path / "sims", "--follow", "--seed", 3,
        "--output", tmp_path / "m", "--logfile", tmp_path / "log",
    )  # fmt: skip
    assert code == 0, err
    assert "8 of 8 examples are in" in (tmp_path / "log").read_text()
    assert (tmp_path / "m.npz").read_bytes() == (folder / "m.npz").read_bytes()


def test_simulate_predict_and_evaluate(folder, capsys, tmp_path):
    code, _, err = run(
        capsys, "simulate", folder / "settings_of_cli.py", "--number", 5, "--seed", 9, "--output", tmp_path / "sims.npz"
    )
    assert code == 0, err
    with np.load(tmp_path / "sims.npz") as file:
        data, labels = file["data"], file["labels"]
    assert data.shape == (5, 8, 6, 2)
    assert labels.shape == (5, 2)
    code, _, err = run(capsys, "predict", folder / "m", tmp_path / "sims.npz", "--output", tmp_path / "p.tsv")
    assert code == 0, err
    table = np.loadtxt(tmp_path / "p.tsv", skiprows=1)
    np.testing.assert_allclose(table[:, 1:], load(folder / "m").predict(data), rtol=1e-6)
    assert (tmp_path / "p.tsv").read_text().startswith("#dataset\tp_cold\tp_hot\n")
    code, out, err = run(capsys, "evaluate", folder / "settings_of_cli.py", folder / "m", "--number", 5, "--seed", 9)
    assert code == 0, err
    accuracy = np.mean(table[:, 1:].argmax(axis=1) == labels.argmax(axis=1))
    assert f"accuracy                   {accuracy:.4f}" in out
    assert "5 fresh simulations with seed 9" in out
    code, _, err = run(capsys, "evaluate", folder / "settings_of_cli.py", folder / "m", "--number", 5, "--seed", 3)
    assert code == 2
    assert "--seed must be another one than that of the model's training, 3" in err


def test_calibration_error__of_known_numbers():
    assert calibration_error(np.array([0.75] * 4), np.array([1, 1, 1, 0])) == pytest.approx(0)
    assert calibration_error(np.array([0.9] * 4 + [0.5] * 4), np.array([1, 1, 0, 0, 1, 1, 0, 0])) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["scan", "m", "data.vcf"], "the following arguments are required: --output"),
        (["scna"], "invalid choice: 'scna'"),
        (["scan", "none", "data.vcf", "--output", "new"], "none.npz: there is no such model file"),
        (["scan", "m", "none.vcf", "--output", "new"], "none.vcf: cannot be read"),
        (
            ["scan", "m", "data.vcf", "--output", "new", "--region", "chr7"],
            "there is no contig 'chr7'; the file has chr1",
        ),
        (["scan", "m", "data.vcf", "--output", "new", "--samples", "x,y"], "there is no sample x, y"),
        (["scan", "m", "data.vcf", "--output", "new", "--samples", "tsk_0"], "takes 8 haplotypes, and there are 2"),
        (["scan", "m", "data.vcf", "--output", "new", "--mask", "a.bed"], "give --accessible or --inaccessible"),
        (["scan", "m", "data.vcf", "--output", "new", "--prior", "0.9"], "prior must be 2 positive probabilities"),
        (["scan", "m", "data.vcf", "--output", "new", "--prior", "half"], "--prior must be numbers with commas"),
        (["scan", "m", "data.vcf", "--output", "none/new"], "--output: the folder .*none' does not exist"),
        (["scan", "m", "data.vcf", "--output", "new", "--threshold", "50"], "--threshold must be a probability"),
        (
            ["scan", "m", "data.vcf", "--output", "new", "--bed", "new"],
            "--bed: '.*new' is the file of --output",
        ),
        (["scan", "m", "data.vcf", "--output", "data.vcf", "--force"], "--output: '.*data.vcf' is the file of genomes"),
        (["scan", "m", "data.vcf", "--output", "m.npz", "--force"], "--output: '.*m.npz' is the file of MODEL; choose"),
        (["predict", "m", "data.vcf", "--output", "data.vcf", "--force"], "--output: '.*' is the file of DATA.npz"),
        (["predict", "m", "data.vcf", "--output", "new"], "data.vcf: no array of datasets; an .npy is needed, or an"),
        (["predict", "m", "none.npz", "--output", "new"], "none.npz: no array of datasets: No such file or directory"),
        (["train", "none.py", "--output", "new"], "none.py: there is no such file"),
        (["train", "settings_of_cli.py", "--output", "m"], "m.npz is there already; --force replaces it"),
        (["train", "broken.py", "--output", "new"], "broken.py fails: ZeroDivisionError: division by zero"),
        (["train", "empty.py", "--output", "new"], "empty.py: it defines no simulator"),
        (["train", "shapeless.py", "--output", "new"], "defines neither input_shape nor encoder"),
        (["simulate", "failing.py", "--output", "new"], "example 0 of seed 1: the simulator failed: KeyError: 'rate'"),
        (["simulate", "settings_of_cli.py"], "give either --output, for a file, or --simulations, for a folder"),
        (["simulate", "settings_of_cli.py", "--output", "new", "--stop", "3"], "--stop goes with --simulations"),
        (["simulate", "settings_of_cli.py", "--simulations", "new"], "--stop is missing"),
        (["simulate", "settings_of_cli.py", "--simulations", "new", "--stop", "0"], "stop must be at least 1"),
        (["simulate", "settings_of_cli.py", "--simulations", "new", "--stop", "9" * 20], "stop must be at most 922337"),
        (["simulate", "settings_of_cli.py", "--output", "new", "--number", "0"], "--number must be at least 1, got 0"),
    ],
)
def test_mistakes__are_one_line_and_write_nothing(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("broken.py").write_text("1 / 0\n")
    Path("empty.py").write_text("x = 1\n")
    Path("shapeless.py").write_text("simulator = print\n")
    Path("failing.py").write_text(FILE.replace("label = rng.integers(2)", "raise KeyError('rate')"))
    before = sorted(Path().iterdir())
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    *log, line = err.splitlines()
    assert line.startswith("definetti: error: ")
    assert re.search(message, line), line
    assert all("error" not in text for text in log)
    assert [path for path in sorted(Path().iterdir()) if path.name != "__pycache__"] == before


def test_scan__a_disk_that_is_full_leaves_no_file(folder, capsys, monkeypatch, tmp_path):
    """The table is the last of three; those before it go, but for one that was there and is replaced."""
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Scan, "_write_lines", lambda *arguments: (_ for _ in ()).throw(full))
    arguments = ["scan", folder / "m", folder / "data.vcf", "--output", tmp_path / "scan.tsv"]
    arguments += ["--bed", tmp_path / "scan.bed", "--bedgraph", tmp_path / "scan.bedgraph", "--threshold", 0.01]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "definetti: error: [Errno 28] No space left on device"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scan.bed").write_text("before\n")
    code, _, _ = run(capsys, *arguments, "--force")
    assert code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scan.bed"]


def test_help__fits_a_screen_and_has_an_example(capsys):
    for command in ("info", "train", "status", "simulate", "predict", "scan", "evaluate"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"example: definetti {command} " in out
        assert len(out.splitlines()) <= 40


def test_module__is_the_command():
    command = [sys.executable, "-m", "definetti_np", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"definetti_np {definetti_np.__version__}\n")


def test_example__has_a_file_for_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    example = Path(__file__).parents[1] / "example" / "hotspots.py"
    code, _, err = run(capsys, "simulate", example, "--number", 2, "--output", tmp_path / "sims.npz")
    assert code == 0, err
    with np.load(tmp_path / "sims.npz") as file:
        assert file["data"].shape == (2, 198, 64, 2)


def test_status__of_a_run_on_another_machine(folder, capsys, tmp_path):
    """What is on the disk tells: here it stands for the files of a machine that is far away."""
    source = f"""
import sys, time, numpy as np
from definetti_np import train
def simulate(rng):
    time.sleep(0.05)
    return rng.random((4, 2)), np.eye(2)[rng.integers(2)]
train((4, 2), (2,), simulate, [("fc", 2)], ("max",), [("softmax",)], num_batches=1000, batch_size=10, sim_threads=1,
      save_path={str(tmp_path / "run")!r}, checkpoint_every=1, seed=1)
"""
    environment = {**os.environ, "PYTHONPATH": search_path(PACKAGES)}
    process = subprocess.Popen([sys.executable, "-P", "-c", source], stderr=subprocess.PIPE, text=True, env=environment)
    assert any("batch 0 of 1000" in line for line in process.stderr)
    while not (tmp_path / "run.checkpoint.npz").exists():
        time.sleep(0.05)
    code, out, _ = run(capsys, "status", tmp_path / "run")
    assert code == 0
    pattern = (
        rf"alive: host \S+, process {process.pid}: batch \d+ of 1000, loss [\d.]+, \d+ examples/s, \d+ s left\n"
        r"checkpoint: \d+ batches, written \d+ s ago, .*run\.checkpoint\.npz\n"
    )
    assert re.fullmatch(pattern, out), out
    os.utime(tmp_path / "run.lock", (0, 0))
    process.kill()
    process.communicate()
    out = run(capsys, "status", tmp_path / "run")[1]
    assert re.match(r"silent for \d+ d: host", out), out
    (tmp_path / "run.lock").unlink()
    assert run(capsys, "status", tmp_path / "run")[1].startswith("not running\ncheckpoint: ")
    code, out, err = run(capsys, "status", folder / "m")
    assert "not running\n" in out
    assert "model: 2 batches" in out


def test_status__of_nothing(capsys, tmp_path):
    code, _, err = run(capsys, "status", tmp_path / "nothing")
    assert code == 2
    assert "there is no run, checkpoint or model" in err


@pytest.fixture
def finished(folder, tmp_path):
    """The files of a run that has ended, and a name for files that are to be damaged."""
    for name in ("m.npz", "m.checkpoint.npz"):
        shutil.copy(folder / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.checkpoint.npz", r"checkpoint that cannot be read: .*m\.checkpoint\.npz.*"),
        ("m.npz", r"model that cannot be read: .*m\.npz.*"),
    ],
)
def test_status__of_damaged_files_names_them(finished, capsys, name, message):
    content = (finished / name).read_bytes()
    (finished / name).write_bytes(content[: len(content) // 2])
    code, out, _ = run(capsys, "status", finished / "m")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "not running"
    assert len(lines) == 3
    assert sum(re.fullmatch(message, line) is not None for line in lines) == 1


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "text"])
def test_status__of_a_lock_that_no_run_has_written(finished, capsys, kind):
    path = finished / "m.lock"
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "circle": lambda: path.symlink_to(path),
        "text": lambda: path.write_text("something\x1b[31m" * 100),
    }[kind]()
    code, out, _ = run(capsys, "status", finished / "m")
    assert code == 0
    assert re.match(r"perhaps running: .*m\.lock\ncheckpoint: 2 batches", out), out
    assert "something" not in out


def test_status__of_a_run_whose_clock_is_ahead(finished, capsys):
    (finished / "m.lock").write_text("host far, process 7\nbatch 1 of 2")
    ahead = time.time() + 3 * 3600 + 60
    os.utime(finished / "m.lock", (ahead, ahead))
    _, out, _ = run(capsys, "status", finished / "m")
    expected = "alive or not: its last sign of life is 3 h ahead of the clock here: host far, process 7: batch 1 of 2\n"
    assert out.startswith(expected)
