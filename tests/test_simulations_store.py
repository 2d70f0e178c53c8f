"""The store: what is in a folder is read, what is missing is simulated, and nothing that is read is wrong."""

import errno
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from disasters import SMALL, simulator
from hypothesis import given
from hypothesis import strategies as st

from definetti_np import Simulations, SimulatorError, simulate, simulate_example, train
from definetti_np.files import whole
from definetti_np.multiset import as_rows, distinct_rows
from definetti_np.simulation import shards, store_stream
from definetti_np.simulation.ranges import Ranges
from definetti_np.simulation.shards import DIFFERENCES, TWO_VALUES, Key, Shard, check_shard, encode_shard, read_header
from definetti_np.simulation.source import Example, ExampleSource
from definetti_np.simulation.store import Store, shard_files
from definetti_np.simulation.store_stream import StoreStream
from definetti_np.simulation.stream import SerialStream, StreamSettings
from definetti_np.specs import data_spec

SHAPES = SMALL["input_shape"], SMALL["output_shape"]
SETTINGS = StreamSettings(0, check_randomness=False)
COUNT = SMALL["num_batches"] * SMALL["batch_size"]
quiet_simulate = functools.partial(simulate, logfile=None, sim_threads=0)


def digest(model):
    parts = [array.tobytes() for array in model.network.parameters.values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(scope="module")
def undisturbed():
    return digest(train(simulator=simulator, **SMALL, sim_threads=0))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "simulations"


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(store_stream, "EXAMPLES_PER_SHARD", 40)


def never(rng):
    raise AssertionError("it is in the store")


never.__qualname__ = simulator.__qualname__  # the name is what the store goes by


def files_of(folder):
    return [file.path for file in shard_files(folder)]


def source_of(function=simulator, on_error="raise", seed=1):
    return ExampleSource(function, seed, data_spec(*SHAPES), None, on_error)


def open_store(folder, seed=1):
    spec = data_spec(*SHAPES)
    return Store(folder, Key("simulator", None, seed, spec.row_shape, spec.output_shape))


def assert_equal(one, other):
    for a, b in zip((one.rows, one.counts, one.label), (other.rows, other.counts, other.label), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
    assert one.redraws == other.redraws


# Shards


@st.composite
def shards_of_examples(draw):
    """A key, the index of the first example, and consecutive examples."""
    width, channels, numbers = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    values = draw(st.sampled_from(["alleles", "three values", "normal", "tiny"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    examples = []
    for _ in range(draw(st.integers(1, 6))):
        shape = (int(rng.integers(1, 12)), width, channels)
        if values == "normal":
            data = rng.standard_normal(shape)
        elif values == "tiny":
            data = rng.choice(np.array([0, 1e-45, -1e-45, 3e38, -3e38]), shape)
        else:
            data = rng.integers(2 if values == "alleles" else 3, size=shape)
            data = data * rng.standard_normal((1, width, channels))  # one channel may be the distances
        rows, counts = distinct_rows(as_rows(data, "data"))
        if draw(st.booleans()):
            counts = counts * int(rng.integers(1, 2**40))
        label = rng.standard_normal(numbers).astype(np.float32)
        redraws = tuple(draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=2)))
        examples.append(Example(rows, counts, label, redraws))
    key = Key(draw(st.text(max_size=5)), draw(st.none() | st.text(max_size=3)), 3, (width, channels), (numbers,))
    return key, draw(st.integers(0, 2**50)), examples


@given(shards_of_examples())
def test_shard__is_read_as_it_was_written(drawn):
    key, start, examples = drawn
    shard = Shard(encode_shard(key, start, examples))
    assert (shard.key, shard.start, shard.stop, len(shard)) == (key, start, start + len(examples), len(examples))
    np.testing.assert_array_equal(shard.labels, [example.label for example in examples])
    for place, example in enumerate(examples):
        batch = shard.batch(start + place, start + place + 1)
        redraws = shard.redraws.get(place, ())
        assert_equal(example, Example(batch.rows, batch.counts, shard.labels[place], redraws))
        assert list(shard.reasons(start + place, start + place + 1)) == list(example.redraws)
    together = shard.batch(start, start + len(examples))
    np.testing.assert_array_equal(together.rows, np.concatenate([example.rows for example in examples]))
    np.testing.assert_array_equal(shard.dataset_sizes(), [example.counts.sum() for example in examples])


@given(shards_of_examples(), st.data())
def test_shard__cut_anywhere_or_changed_anywhere_is_refused(drawn, data):
    content = encode_shard(*drawn)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    for wrong in (cut, bytes(changed), content + b"\0"):
        with pytest.raises(ValueError, match="it |its "):
            check_shard(wrong)
        with pytest.raises(ValueError, match="it |its "):
            Shard(wrong)


def test_shard__alleles_and_distances_take_a_bit_each():
    rng = np.random.default_rng(1)
    alleles = rng.integers(2, size=(198, 24, 1)) * np.ones(2)
    alleles[:, :, 1] = rng.exponential(size=24)
    rows, counts = distinct_rows(as_rows(alleles, "data"))
    key = Key("s", None, 1, (24, 2), (2,))
    header, data = read_header(encode_shard(key, 0, [Example(rows, counts, np.float32([0, 1]))]))
    assert header["encoding"] == TWO_VALUES
    assert len(data) < rows.nbytes / 25
    header, _ = read_header(
        encode_shard(key, 0, [Example(rows * np.float32(0.1) + rows[::-1], counts, np.float32([0, 1]))])
    )
    assert header["encoding"] == DIFFERENCES


def with_header(**changes):
    """A shard with another header, and right checksums."""
    content = encode_shard(Key("simulator", None, 1, (3, 1), (2,)), 0, [source_of().example(i) for i in range(3)])
    header, data = read_header(content)
    header = json.dumps({**header, **changes}).encode()
    digest = hashlib.sha256(header).digest()
    return shards.FIRST_LINE + len(header).to_bytes(4, "little") + header + digest + bytes(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"simulator": 3}, "does not name the simulator"),
        ({"seed": -1}, "does not name the simulator"),
        ({"row_shape": [3, 0]}, "no row_shape"),
        ({"output_shape": [2, 2]}, "no output_shape"),
        ({"stop": None}, "no number stop"),
        ({"rows": 2}, "contradicts itself"),
        ({"stop": 2**50}, "contradicts itself"),
        ({"content": 2**40}, "contradicts itself"),
        ({"counts": "<i8"}, "contradicts itself"),
        ({"content": 5}, "not as long as its header says"),
        ({"row_shape": [2, 1]}, "more numbers|contradict"),
        ({"row_shape": [300, 1]}, "fewer numbers"),
        ({"encoding": "words"}, "'words', which is unknown"),
        ({"data": 5}, "differ from their checksum"),
    ],
    ids=str,
)
def test_shard__that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Shard(with_header(**changes))


# Ranges


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8))), st.integers(0, 30), st.integers(0, 30))
def test_ranges__are_the_set_of_their_numbers(pairs, start, length):
    numbers = {n for first, size in pairs for n in range(first, first + size)}
    ranges = Ranges(range(first, first + size) for first, size in pairs)
    assert list(ranges) == sorted(numbers) == [ranges[i] for i in range(len(ranges))] == ranges[:]
    assert len(ranges) == len(numbers)
    assert all((n in ranges) == (n in numbers) for n in range(-1, 50))
    assert "0" not in ranges
    assert list(ranges.missing(range(start, start + length))) == sorted(set(range(start, start + length)) - numbers)
    if numbers:
        assert ranges[-1] == max(numbers)
    with pytest.raises(IndexError):
        ranges[len(numbers)]


def test_ranges__are_named():
    assert str(Ranges([range(3, 9), range(5), range(10, 11)])) == "0 to 8, 10"
    assert str(Ranges([])) == "none"
    assert str(Ranges(range(2 * i, 2 * i + 1) for i in range(15))).endswith("18, 5 more ranges")


# Training


@pytest.mark.parametrize("workers", [0, 2])
def test_train__writes_what_it_simulates_and_reads_what_is_there(folder, undisturbed, small_shards, workers):
    assert digest(train(simulator=simulator, **SMALL, sim_threads=workers, simulations=folder)) == undisturbed
    assert len(files_of(folder)) == COUNT / 40
    assert digest(train(simulator=never, **SMALL, sim_threads=0, simulations=folder)) == undisturbed
    assert digest(train(simulator=None, **SMALL, simulations=folder)) == undisturbed


@pytest.mark.parametrize("workers", [0, 2])
def test_train__simulates_what_is_missing_and_nothing_else(folder, undisturbed, workers):
    for start, stop in ((150, 170), (25, 61), (64, 90), (199, 260)):
        quiet_simulate(simulator, *SHAPES, folder, seed=1, start=start, stop=stop)
    assert digest(train(simulator=simulator, **SMALL, sim_threads=workers, simulations=folder)) == undisturbed
    assert Simulations(folder).ranges == [range(260)]
    assert sum(file.stop - file.start for file in shard_files(folder)) == 260, "none of them twice"


def test_train__takes_the_seed_of_the_store(folder, undisturbed):
    train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)
    model = train(simulator=None, **SMALL | {"seed": None}, simulations=folder)
    assert (model.seed, digest(model)) == (1, undisturbed)


def test_train__a_larger_batch_than_a_shard(folder, small_shards):
    options = SMALL | {"num_batches": 2, "batch_size": 100, "queue_capacity": 100}
    one = digest(train(simulator=simulator, **options, sim_threads=0, simulations=folder))
    assert one == digest(train(simulator=None, **options, simulations=folder))
    assert one == digest(train(simulator=simulator, **options, sim_threads=0))


def test_train__resumes_with_a_store(folder, tmp_path, undisturbed):
    options = SMALL | {"num_batches": 7}
    train(simulator=simulator, **options, sim_threads=0, simulations=folder, save_path=tmp_path / "m")
    model = train(
        simulator=simulator, **SMALL, sim_threads=0, simulations=folder, save_path=tmp_path / "m", resume=True
    )
    assert digest(model) == undisturbed
    other = train(simulator=None, **SMALL, simulations=folder, save_path=tmp_path / "m", resume=True)
    assert digest(other) == undisturbed


def test_train__counts_redraws_as_when_they_were_simulated(folder, tmp_path, caplog):
    def unreliable(rng):
        if rng.random() < 0.05:
            raise ValueError("no mutations")
        return simulator(rng)

    options = {**SMALL, "sim_threads": 0, "simulations": folder}
    first = train(simulator=unreliable, on_simulator_error="redraw", **options)
    again = train(simulator=None, on_simulator_error="redraw", **options)
    assert digest(first) == digest(again)
    said = [record.getMessage() for record in caplog.records if "draws failed" in record.getMessage()]
    assert len(said) == 2
    assert said[0] == said[1]
    assert digest(train(simulator=None, **options)) == digest(first)
    with pytest.raises(SimulatorError, match="the simulator failed when the example was simulated.*no mutations"):
        train(simulator=unreliable, **options)
    with pytest.raises(SimulatorError, match="more than max_redraw_fraction=0.001"):
        train(simulator=None, on_simulator_error="redraw", max_redraw_fraction=0.001, **options)


def test_next_examples__are_those_of_the_source(folder, small_shards):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, start=30, stop=100)
    with StoreStream(open_store(folder), source_of(), SETTINGS, range(20, 120)) as stream:
        examples = [example for _ in range(5) for example in stream.next_examples(20)]
    for index, example in enumerate(examples, 20):
        assert_equal(example, source_of().example(index))


# Killed, and damaged


def test_store__killed_at_every_byte_of_the_last_shard(folder, small_shards, caplog):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=80)
    last = files_of(folder)[-1]
    content = last.read_bytes()
    wanted = [source_of().example(index) for index in range(80)]
    for size in range(len(content)):
        last.write_bytes(content[:size])
        store = open_store(folder)
        store.check(range(80))
        assert store.examples == Ranges([range(40)]), "the last shard is not used, and the others are"
    with StoreStream(open_store(folder), source_of(), SETTINGS, range(80)) as stream:
        for index, example in enumerate([*stream.next_examples(40), *stream.next_examples(40)]):
            assert_equal(example, wanted[index])
    assert last.read_bytes() == content, "simulated again, it takes its place"


WRITER = """
import sys
import definetti_np
from disasters import simulator
from definetti_np.files import whole
from definetti_np.simulation import store_stream
store_stream.EXAMPLES_PER_SHARD = 40
steps = 0
def step(*arguments):
    global steps
    steps += 1
    if steps == {step}:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
import os
def killed_around(name):
    function = getattr(os, name)
    def wrapped(*arguments, **keywords):
        step()
        result = function(*arguments, **keywords)
        step()
        return result
    setattr(os, name, wrapped)
for name in ("fsync", "replace"):
    killed_around(name)
definetti_np.simulate(simulator, (12, 3), (2,), sys.argv[1], seed=1, stop=80, sim_threads=0, logfile=None)
"""


@pytest.mark.parametrize("step", [2, 3, 4, 9, 10])
def test_store__a_process_that_is_killed_while_it_writes(folder, step):
    program = WRITER.format(step=step)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program, folder], env=environment, timeout=60)
    assert done.returncode == -9
    there = Simulations(folder).ranges if files_of(folder) else []
    assert there == [[], [range(40)], [range(80)]][(step >= 4) + (step >= 10)]
    old = list(folder.glob(".*.tmp"))
    for path in old:
        os.utime(path, (0, 0))  # from long ago
    simulations = quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=81)
    assert simulations.ranges == [range(81)]
    assert not list(folder.glob(".*.tmp"))
    simulations.check()


@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "renamed"])
def test_train__damaged_shards_are_simulated_again(folder, undisturbed, small_shards, caplog, damage):
    train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)
    path = files_of(folder)[1]
    content = path.read_bytes()
    if damage == "changed":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "removed":
        path.unlink()
    else:  # it says that it holds what it does not
        path.write_bytes(files_of(folder)[2].read_bytes())
    assert digest(train(simulator=simulator, **SMALL, sim_threads=2, simulations=folder)) == undisturbed
    assert ("cannot be read and is left out" in caplog.text) == (damage != "removed")
    caplog.clear()
    assert digest(train(simulator=None, **SMALL, simulations=folder)) == undisturbed
    assert "cannot be read" not in caplog.text
    assert path.read_bytes() == content


def test_train__the_only_shard_is_damaged(folder, undisturbed):
    train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)
    (path,) = files_of(folder)
    path.write_bytes(b"")
    assert digest(train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)) == undisturbed
    assert digest(train(simulator=None, **SMALL, simulations=folder)) == undisturbed


def test_train__a_shard_that_vanishes_while_training(folder, undisturbed, small_shards):
    train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)
    stream = StoreStream(open_store(folder), source_of(), SETTINGS, range(COUNT))
    stream.next_batch(10)
    for path in files_of(folder)[2:]:
        path.unlink()
    found = [example for _ in range(10) for example in stream.next_examples(10)]
    stream.close()
    for index, example in enumerate(found, 10):
        assert_equal(example, source_of().example(index))
    assert Simulations(folder).ranges == [range(110)]


def test_train__without_a_simulator_damage_is_an_error(folder, small_shards):
    train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)
    path = files_of(folder)[1]
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="lacks 40 of the 200 examples 0 to 199 .*: 40 to 79; give a simulator"):
        train(simulator=None, **SMALL, simulations=folder)
    with pytest.raises(ValueError, match="1 files cannot be read: .*000040-.*cut off"):
        Simulations(folder).check()


# Several runs


def test_simulate__ranges_that_are_filled_at_the_same_time(folder, undisturbed):
    ranges = [(0, 80), (80, 160), (160, 200), (60, 120)]  # the last one overlaps two
    threads = [
        threading.Thread(
            target=quiet_simulate, args=(simulator, *SHAPES, folder), kwargs={"seed": 1, "start": start, "stop": stop}
        )
        for start, stop in ranges
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digest(train(simulator=None, **SMALL, simulations=folder)) == undisturbed
    assert len(Simulations(folder)) == 200


def write_shard(folder, start, stop, function=simulator):
    store = open_store(folder)
    store.write(
        start, stop, encode_shard(store.key, start, [source_of(function).example(i) for i in range(start, stop)])
    )
    return files_of(folder)


def test_store__files_with_the_same_examples_are_named_once(folder, undisturbed, caplog):
    first, *_ = write_shard(folder, 0, 80)
    write_shard(folder, 60, 200)
    assert digest(train(simulator=None, **SMALL, simulations=folder)) == undisturbed
    _, second = files_of(folder)
    (message,) = (message for message in caplog.messages if "hold the same examples" in message)
    assert f"{first} and {second}, for example, examples 60 to 79" in message
    store = open_store(folder)
    caplog.clear()
    store.compare()
    store.compare()
    assert len(caplog.messages) == 1


def other_numbers(rng):
    data, label = simulator(rng)
    return data, label[::-1].copy()


@pytest.mark.parametrize("ranges", [((0, 80), (79, 200)), ((0, 200), (40, 50)), ((0, 200), (0, 10))])
def test_store__files_that_differ_in_an_example_are_refused_by_name(folder, ranges):
    write_shard(folder, *ranges[0])
    write_shard(folder, *ranges[1], other_numbers)
    one, other = files = files_of(folder)
    stop = min(ranges[0][1], ranges[1][1])
    message = f"{one} and {other} hold different examples {ranges[1][0]} to {stop - 1}: the simulator, or"
    for what in (
        lambda: train(simulator=None, **SMALL, simulations=folder),
        lambda: quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=300),
        Simulations(folder).check,
    ):
        with pytest.raises(ValueError, match=message):
            what()
    assert files_of(folder) == files, "nothing is lost"


def test_simulate__a_range_that_reaches_into_another_one_is_said(folder, caplog):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=70)
    before = {path: path.read_bytes() for path in files_of(folder)}
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=70)  # a task that is put into the queue again
    assert not any("overlaps" in message for message in caplog.messages)
    quiet_simulate(simulator, *SHAPES, folder, seed=1, start=60, stop=100)
    (message,) = (message for message in caplog.messages if "overlaps" in message)
    assert message.startswith("the range 60 to 99 overlaps another one, of which ")
    assert message.endswith(" holds examples 0 to 69; they are left alone, and only what is missing is simulated")
    assert Simulations(folder).ranges == [range(100)]
    assert {path: path.read_bytes() for path in before} == before


def test_simulate__goes_on_where_it_was_stopped(folder):
    def stopping(rng):
        if rng.bit_generator.seed_seq.spawn_key[0] == 30:
            raise ValueError("no")
        return simulator(rng)

    stopping.__qualname__ = "simulator"
    with pytest.raises(SimulatorError, match="example 30 of seed 1"):
        quiet_simulate(stopping, *SHAPES, folder, seed=1, stop=70, queue_capacity=10)
    assert Simulations(folder).ranges == [range(30)]
    assert quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=70).ranges == [range(70)]


def test_simulate__says_how_far_it_is(folder, tmp_path):
    simulate(simulator, *SHAPES, folder, seed=1, stop=70, sim_threads=0, logfile=tmp_path / "log")
    text = (tmp_path / "log").read_text()
    assert "0 of 70 examples are in" in text
    assert "70 of 70 examples simulated, " in text


# A disk that fails


@pytest.fixture
def disk(folder, monkeypatch):
    """A set that holds "full" while files cannot be written to the folder."""
    state = set()

    def open_unless_full(path, *rest, **keywords):
        if "full" in state and Path(path).parent == folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return open(path, *rest, **keywords)

    monkeypatch.setattr(whole, "open", open_unless_full, raising=False)
    return state


def test_train__a_full_disk_ends_no_training_and_loses_nothing(folder, undisturbed, disk, small_shards, caplog):
    def filling(rng):
        index = rng.bit_generator.seed_seq.spawn_key[0]
        if index == 30:
            disk.add("full")
        if index == 130:
            disk.clear()
        return simulator(rng)

    filling.__qualname__ = "simulator"
    assert digest(train(simulator=filling, **SMALL, sim_threads=0, simulations=folder)) == undisturbed
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "cannot be written to now: [Errno 28]" in said[0]
    assert "kept in memory" in said[0]
    assert Simulations(folder).ranges == [range(200)]


def test_train__a_disk_that_stays_full(folder, undisturbed, disk, small_shards, caplog):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=80)
    disk.add("full")
    assert digest(train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)) == undisturbed
    assert "examples 80 to 199 of seed 1 could not be written to" in caplog.text
    assert "definetti_np.simulate makes them again" in caplog.text


def test_train__keeps_what_fits_into_memory(folder, undisturbed, disk, small_shards, monkeypatch, caplog):
    monkeypatch.setattr(store_stream, "MOST_UNWRITTEN_BYTES", 3000)
    folder.mkdir()
    disk.add("full")
    assert digest(train(simulator=simulator, **SMALL, sim_threads=0, simulations=folder)) == undisturbed
    assert "examples 0 to 199 of seed 1 could not be written" in caplog.text


def test_simulate__a_full_disk_is_an_error_that_says_what_is_missing(folder, disk, small_shards):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=40)
    disk.add("full")
    with pytest.raises(OSError, match="folder: the examples 40 to 99 could not be written to .*No space left .*again"):
        quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=100)
    disk.clear()
    assert quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=100).ranges == [range(100)]


def test_train__a_full_disk_and_a_simulator_that_fails(folder, disk, caplog):
    def failing(rng):
        if rng.bit_generator.seed_seq.spawn_key[0] == 100:
            raise ValueError("no")
        return simulator(rng)

    folder.mkdir()
    disk.add("full")
    with pytest.raises(SimulatorError, match="example 100"):
        train(simulator=failing, **SMALL, sim_threads=0, simulations=folder)
    assert "could not be written" in caplog.text


def test_store__a_slow_simulator_is_written_once_a_minute(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(store_stream.time, "monotonic", lambda: now[0])
    with StoreStream(open_store(folder), source_of(), SETTINGS, range(100)) as stream:
        stream.next_examples(10)
        assert not folder.exists()
        now[0] = 61.0
        stream.next_examples(10)
        assert [(file.start, file.stop) for file in shard_files(folder)] == [(0, 11)]


# Mistakes


@pytest.fixture(scope="module")
def filled():
    with tempfile.TemporaryDirectory() as folder:
        quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=COUNT)
        yield folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulator": never.__call__}, "holds simulations of simulator 'simulator', not"),
        ({"seed": 2}, "holds simulations of seed 1, not 2; choose another folder"),
        ({"simulations_version": 2}, "holds simulations of simulations_version None, not '2'"),
        ({"input_shape": (12, 4)}, r"holds simulations of rows of shape \(3, 1\), not \(4, 1\)"),
        ({"output_shape": (3,)}, r"holds simulations of labels of shape \(2,\), not \(3,\)"),
        ({"seed": 2, "output_shape": (3,)}, r"seed 1, not 2; labels of shape \(2,\), not \(3,\)"),
        ({"input_shape": (11, 3)}, r"example 0 in .* has 12 rows, input_shape is \(11, 3\)"),
        ({"input_shape": (None, 3), "g": ("top_k", 13)}, "has 12 rows, .* takes 13 rows at least"),
        (
            {"simulator": None, "num_batches": 21},
            "lacks 10 of the 210 examples 0 to 209 .*: 200 to 209; give a simulator",
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_train__of_another_store_is_refused(filled, options, message):
    with pytest.raises(ValueError, match=message) as error:
        train(**{"simulator": simulator, **SMALL, "sim_threads": 0, "simulations": filled, **options})
    assert str(error.value).startswith("simulations: ")
    assert filled in str(error.value)


def test_train__any_number_of_rows_reads_it(filled):
    assert train(simulator=never, **SMALL | {"input_shape": (None, 3)}, sim_threads=0, simulations=filled)


def test_train__labels_that_are_no_distributions_are_refused(folder):
    def number(rng):
        return simulator(rng)[0], rng.standard_normal(2)

    quiet_simulate(number, *SHAPES, folder, seed=1, stop=COUNT)
    with pytest.raises(ValueError, match="simulations: a label must be a probability distribution"):
        train(simulator=None, **SMALL, simulations=folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"simulator": None}, ValueError, "simulator: None needs a folder .* got simulations=None"),
        ({"simulations_version": 3}, ValueError, "simulations_version needs simulations, .* got simulations_version=3"),
        ({"simulations": 3}, TypeError, "simulations must be the path of a folder, got 3"),
        ({"simulations": "there", "simulations_version": 1.5}, TypeError, "must be a text or an integer, got 1.5"),
        ({"simulations": "none/there"}, ValueError, "simulations: the folder '.*none' does not exist; create it"),
        ({"simulations": "a_file"}, ValueError, "simulations must be a folder, '.*a_file' is none"),
        (
            {"simulator": None, "simulations": "there"},
            ValueError,
            "'.*there' holds no simulations, and simulator is None",
        ),
        ({"simulator": None, "simulations": "new"}, ValueError, "'.*new' does not exist, and simulator is None"),
    ],
    ids=str,
)
def test_train__wrong_arguments_of_the_store(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "a_file").touch()
    with pytest.raises(error, match=message):
        train(**{"simulator": simulator, **SMALL, "sim_threads": 0, **options})


def test_train__a_folder_that_cannot_be_written_to(folder, filled, undisturbed, monkeypatch):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK and access(path, mode))
    assert digest(train(simulator=never, **SMALL, sim_threads=0, simulations=filled)) == undisturbed, "it need not be"
    with pytest.raises(ValueError, match="simulations: examples are missing in .*cannot be written to; choose another"):
        train(simulator=simulator, **SMALL | {"num_batches": 21}, sim_threads=0, simulations=filled)


def test_store__of_two_kinds_of_simulations(tmp_path, filled, folder):
    quiet_simulate(simulator, *SHAPES, folder, seed=2, stop=10)
    for path in files_of(Path(filled)):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="holds several kinds of simulations: .*seed.*; .*seed.*; move the files"):
        train(simulator=simulator, **SMALL, simulations=folder)


def test_store__versions_are_texts(folder):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=COUNT, simulations_version=2)
    assert Simulations(folder).simulations_version == "2"
    train(simulator=never, **SMALL, sim_threads=0, simulations=folder, simulations_version="2")
    train(simulator=None, **SMALL, simulations=folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stop": 0}, ValueError, "stop must be at least 1, got 0"),
        ({"start": 5, "stop": 5}, ValueError, "stop must be at least 6, got 5"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
        ({"simulator": None}, TypeError, "simulator must be a function, got None"),
        ({"folder": None}, TypeError, "folder must be the path of a folder, got None"),
        ({"input_shape": (3,)}, ValueError, "input_shape must be"),
        ({"on_simulator_error": "go on"}, ValueError, "on_simulator_error: unknown choice 'go on'"),
    ],
    ids=str,
)
def test_simulate__wrong_arguments(folder, options, error, message):
    right = {
        "simulator": simulator,
        "input_shape": (12, 3),
        "output_shape": (2,),
        "folder": folder,
        "seed": 1,
        "stop": 9,
    }
    with pytest.raises(error, match=message):
        quiet_simulate(**right | options)
    assert not folder.exists()


# Simulations


def test_simulations__show_what_is_there(folder, small_shards):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, start=20, stop=110)
    quiet_simulate(simulator, *SHAPES, folder, seed=1, start=130, stop=140)
    simulations = Simulations(str(folder))
    indices = [*range(20, 110), *range(130, 140)]
    assert len(simulations) == 100
    assert simulations.ranges == [range(20, 110), range(130, 140)]
    assert simulations.holes == [range(20), range(110, 130)]
    assert 20 in simulations
    assert 110 not in simulations
    examples = [simulate_example(simulator, seed=1, index=index) for index in indices]
    for (data, label), (wanted, wanted_label) in zip(simulations, examples, strict=True):
        assert sorted(data[:, :, 0].tolist()) == sorted(wanted.tolist())
        np.testing.assert_array_equal(label, wanted_label)
    np.testing.assert_array_equal(simulations.labels, [label for _, label in examples])
    batch, labels = simulations.batch(50, 100)
    direct, _ = SerialStream(source_of(), SETTINGS, range(50, 100)).next_batch(50)
    np.testing.assert_array_equal(batch.rows, direct.rows)
    np.testing.assert_array_equal(batch.offsets, direct.offsets)
    np.testing.assert_array_equal(labels, simulations.labels[30:80])
    assert simulations.info["examples"] == 100
    assert simulations.info["bytes"] == sum(path.stat().st_size for path in files_of(folder))
    text = repr(simulations)
    assert "100 examples (20 to 109, 130 to 139, without 0 to 19, 110 to 129) of simulator simulator, seed 1" in text
    simulations.check()


@pytest.mark.parametrize("index", [-1, 5, 10**6])
def test_simulations__what_is_not_there(folder, index):
    simulations = quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=5)
    with pytest.raises(IndexError, match=f"example {index} is not in .*, which holds 0 to 4"):
        simulations[index]
    with pytest.raises(IndexError, match="stop must be larger than start"):
        simulations.batch(3, 3)


def test_simulations__of_no_folder(tmp_path):
    with pytest.raises(ValueError, match="folder: .* is no folder; definetti_np.simulate makes and fills one"):
        Simulations(tmp_path / "none")
    with pytest.raises(ValueError, match="folder: .* holds no simulations; definetti_np.simulate adds them"):
        Simulations(tmp_path)


def test_simulations__of_nothing_but_damage(folder):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=5)
    files_of(folder)[0].write_bytes(b"nothing")
    with pytest.raises(ValueError, match="folder: no shard of .* can be read .*cut off"):
        Simulations(folder)


def test_simulations__unpickle_nothing_and_take_no_other_files(folder):
    quiet_simulate(simulator, *SHAPES, folder, seed=1, stop=5)
    (folder / "notes.txt").write_text("mine")
    (folder / "examples-0-5.shard").write_text("mine")
    assert Simulations(folder).ranges == [range(5)]
    assert (folder / "notes.txt").read_text() == "mine"


def test_readers__load_no_numba():
    program = "import sys; from definetti_np import Simulations, simulate; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"


# A training that follows


def test_train__follows_those_who_fill_the_folder(folder, undisturbed, small_shards, monkeypatch, caplog):
    monkeypatch.setattr(store_stream, "LOOK_SECONDS", 0.05)
    caplog.set_level("INFO", "definetti_np")
    ranges = [(start, start + 50) for start in range(0, COUNT, 50)]

    def fill():
        for start, stop in ranges[::-1]:  # the last ones first
            quiet_simulate(simulator, *SHAPES, folder, seed=1, start=start, stop=stop)

    thread = threading.Thread(target=fill)
    thread.start()
    model = train(simulator=never, **SMALL, sim_threads=0, simulations=folder, follow=True)
    thread.join()
    assert digest(model) == undisturbed
    assert any("waiting for example 0, which" in message for message in caplog.messages)


def test_train__that_follows_can_be_stopped(folder):
    timer = threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        train(simulator=never, **SMALL, sim_threads=0, simulations=folder, follow=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"follow": True}, "follow needs simulations, a folder that others fill"),
        ({"follow": 1, "simulations": "x"}, "follow must be True or False, got 1"),
    ],
)
def test_train__what_follow_needs(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        train(simulator=simulator, **SMALL, **options)
