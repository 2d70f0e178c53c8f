"""Reuse, augmentation and schedules: each is a function of the seed and the step, whoever simulates, and when resumed."""

import hashlib
import logging
import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import SMALL

from definetti_np import SimulatorError, Trainer, augment, train
from definetti_np import reuse as reuse_module
from definetti_np.files.checkpoint import read_checkpoint
from definetti_np.multiset import MultisetBatch
from definetti_np.reuse import Memory, augment_batch
from definetti_np.schedules import StepSettings, cosine
from definetti_np.seeds import example_seed
from definetti_np.simulation.source import ExampleSource
from definetti_np.simulation.stream import PATIENT, StreamSettings, open_stream, take_batches
from definetti_np.specs import network_spec

stop_at = None  # the number of calls after which the simulator fails
calls = 0


def simulator(rng):
    global calls
    calls += 1
    if calls == stop_at:
        raise MemoryError("stopped")  # which is not drawn again under "redraw"
    wide = rng.integers(2)
    return np.round(rng.standard_normal((12, 3)) * (1 + 3 * wide)), np.eye(2)[wide]


@pytest.fixture(autouse=True)
def _no_stop():
    yield
    stop_after(None)


def stop_after(number):
    global stop_at, calls
    stop_at, calls = number, 0


EVERYTHING = {
    **SMALL,
    "simulator": simulator,
    "num_batches": 12,
    "check_randomness": False,  # it would simulate some examples twice, and they are counted here
    "reuse": 3,
    "augment": augment.compose(augment.mirror(distances=None), augment.genotype_errors(0.1)),
    "schedule": "cosine",
    "averaging": 0.9,
    "weight_decay": 0.1,
    "max_gradient_norm": 0.5,
    "validation": 15,
    "keep": "best",
    "verbosity": 5,
    "metadata": {"classes": ["narrow", "wide"]},
}


def run(folder, **options):
    folder.mkdir(exist_ok=True)
    return train(**{**EVERYTHING, **options}, save_path=folder / "w", training_summary=folder / "s")


def files(folder):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("w.npz", "s")]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The files of an undisturbed run with everything on."""
    folder = tmp_path_factory.mktemp("twin")
    run(folder)
    return files(folder)


def test_everything__same_file_for_any_number_of_workers_threads_and_executors(tmp_path, twin):
    for workers, threads, capacity in [(1, 2, 10), (3, 4, 33)]:
        run(tmp_path, sim_threads=workers, training_threads=threads, queue_capacity=capacity)
        assert files(tmp_path) == twin
    with ThreadPoolExecutor(2) as executor:
        run(tmp_path, sim_threads=None, executor=executor)
    assert files(tmp_path) == twin


def test_everything__resumed_at_random_moments_ends_in_the_same_file(tmp_path, twin):
    rng, stops = random.Random(1), 0
    while stops < 20:
        folder = tmp_path / str(stops)
        folder.mkdir()
        while True:
            stop_after(rng.randint(15, 180))  # those of validation come first
            try:
                run(folder, resume=True, checkpoint_every=rng.choice([1, 3, 100]))
            except SimulatorError:
                stops += 1
                continue
            break
        assert files(folder) == twin


CHANGES = [
    {"reuse": 2},
    {"augment": None},
    {"schedule": "constant"},
    {"seed": 2},
    {"averaging": 0.8},
    {"averaging": None},
    {"weight_decay": 0},
    {"max_gradient_norm": None},
    {"validation": 14},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_everything__each_part_changes_the_model(tmp_path, twin, change):
    run(tmp_path, **change)
    assert files(tmp_path) != twin


@pytest.mark.parametrize("capacity", [10, 25, None])
def test_resume__with_a_bounded_memory_simulates_no_more_than_it_holds(tmp_path, monkeypatch, caplog, capacity):
    monkeypatch.setattr(reuse_module, "MOST_BYTES", 4000)
    options = {"reuse_capacity": capacity, "augment": None}
    run(tmp_path / "twin", **options)
    stop_after(90)
    with pytest.raises(SimulatorError):
        run(tmp_path / "here", **options)
    state = read_checkpoint(tmp_path / "here" / "w.checkpoint.npz")
    first = state.state["held_from"]
    assert (state.batches, state.adam_steps, state.next_example) == (7, 28, 70)
    assert first == {10: 60, 25: 40}.get(capacity, first) > 0
    stop_after(None)
    caplog.set_level(logging.INFO, logger="definetti_np")
    run(tmp_path / "here", **options, resume=True)
    assert calls == 15 + 120 - first
    assert f"simulating examples {first} to 69 again, because reuse draws from them" in caplog.text
    assert files(tmp_path / "here") == files(tmp_path / "twin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reuse": 2}, "reuse=2, the checkpoint has 3"),
        ({"reuse": 0}, "reuse=None, the checkpoint has 3"),
        ({"augment": augment.mirror()}, r"augment='mirror\(.*, the checkpoint has 'compose\(mirror\(distances=\(\)"),
        ({"schedule": "constant"}, "schedule=None, the checkpoint has 'cosine'"),
        ({"num_batches": 13}, "num_batches=13, the checkpoint has 12"),
        ({"averaging": None}, "averaging=None, the checkpoint has 0.9"),
        ({"weight_decay": 0.2}, "weight_decay=0.2, the checkpoint has 0.1"),
        ({"max_gradient_norm": None}, "max_gradient_norm=None, the checkpoint has 0.5"),
        ({"reuse_capacity": 50}, "reuse_capacity=50, the checkpoint has None"),
    ],
    ids=str,
)
def test_resume__of_another_run_is_refused(tmp_path, change, message):
    run(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **change, resume=True)


def batches_of(number, size, seed=1):
    spec = network_spec((12, 3), (2,), [], ("max",), [("softmax",)])
    source = ExampleSource(simulator, seed, spec, "cross-ent")
    return list(take_batches(source, StreamSettings(0), range(number * size), size, PATIENT))


def memory_of(batches, size, capacity, seed=1):
    memory = Memory(seed, size, capacity)
    for batch in batches:
        memory.add(*batch)
    return memory


def test_memory__draws_examples_that_it_holds_as_they_were_without_replacement():
    batches = batches_of(6, 5)
    known = {}
    for data, labels in batches:
        for place in range(5):
            rows, counts = reuse_module.dataset_at(data, place)
            known[rows.tobytes(), counts.tobytes()] = labels[place].tobytes(), len(known)
    memory, drawn = memory_of(batches, 5, 12), []
    for step in range(200):
        data, labels = memory.draw(step)
        places = []
        for place in range(5):
            rows, counts = reuse_module.dataset_at(data, place)
            label, index = known[rows.tobytes(), counts.tobytes()]
            assert label == labels[place].tobytes()
            places.append(index)
        assert len(set(places)) == 5
        drawn += places
    assert sorted(set(drawn)) == list(range(18, 30)) == list(memory.held)
    often = np.bincount(drawn)[18:]
    assert often.min() > 50  # of 83 each, on average
    assert often.max() < 120


def test_memory__is_a_function_of_seed_and_step():
    batches = batches_of(4, 5)
    first, second = memory_of(batches, 5, None), memory_of(batches, 5, 1000)
    second.draw(3)
    assert [a.draw(7)[0].rows.tobytes() for a in (first, second)] == [first.draw(7)[0].rows.tobytes()] * 2
    assert first.draw(7)[0].rows.tobytes() != first.draw(8)[0].rows.tobytes()
    assert first.draw(7)[0].rows.tobytes() != memory_of(batches, 5, None, seed=2).draw(7)[0].rows.tobytes()


@given(st.integers(1, 30), st.one_of(st.none(), st.integers(5, 60)), st.integers(1, 20_000))
def test_memory__is_bounded_and_the_same_from_where_it_begins(number, capacity, most_bytes):
    batches = BATCHES[:number]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse_module, "MOST_BYTES", most_bytes)
        memory = memory_of(batches, 5, capacity)
        again = Memory(1, 5, capacity, memory.first)
        for batch in batches[memory.first // 5 :]:
            again.add(*batch)
    assert memory.held.stop == again.held.stop == 5 * number
    assert (memory.first, memory.held, memory.bytes) == (again.first, again.held, again.bytes)
    sizes = [data.rows.nbytes + data.counts.nbytes + data.offsets.nbytes + labels.nbytes for data, labels in batches]
    assert memory.bytes == sum(sizes[memory.first // 5 :])
    if capacity is None:
        assert memory.bytes <= max(most_bytes, sizes[-1])
        assert memory.first == 0 or memory.bytes + sizes[memory.first // 5 - 1] > most_bytes, "no more than it must"
    else:
        assert len(memory.held) == min(capacity, 5 * number)
        assert 0 <= memory.held.start - memory.first < 5


BATCHES = batches_of(30, 5)


def test_augment__has_a_generator_of_its_own_for_each_step_and_place():
    data, _ = BATCHES[0]
    seen = {}

    def noting(rows, counts, rng):
        seen.setdefault(key, []).append(rng.random())
        return rows, counts

    for key in [(1, 0), (1, 1), (2, 0), (1, 0)]:
        augment_batch(noting, data, seed=key[0], step=key[1])
    first, again = seen[1, 0][:5], seen[1, 0][5:]
    assert first == again
    assert len({*first, *seen[1, 1], *seen[2, 0]}) == 15


def test_augment__is_applied_to_new_examples_and_afresh_to_old_ones():
    uses = []

    def noting(rows, counts, rng):
        uses.append(rows.tobytes())
        return rows, counts

    train(**{**EVERYTHING, "augment": noting, "num_batches": 3})
    assert len(uses) == 3 * 4 * 10
    assert len(set(uses[:10])) == 10
    assert set(uses[10:40]) == set(uses[:10]), "the first batch can be drawn from itself alone"


def test_augment__mirrors_distances_in_a_mirrored_dataset():
    rng = np.random.default_rng(1)
    alleles, positions = rng.integers(2, size=(9, 6)), np.sort(rng.random(6))

    def data_of(alleles, positions):
        distances = np.broadcast_to(np.append(np.diff(positions), 0), alleles.shape)
        return np.stack([alleles, distances], axis=2).astype(np.float32)

    batch = MultisetBatch.from_datasets([data_of(alleles, positions)])
    mirrored = augment_batch(augment.mirror(probability=1), batch, seed=1, step=0)
    expected = MultisetBatch.from_datasets([data_of(alleles[:, ::-1], 1 - positions[::-1])])
    np.testing.assert_allclose(mirrored.rows, expected.rows, rtol=1e-5)
    assert mirrored.counts.tolist() == expected.counts.tolist()


def test_reuse__learns_more_from_the_same_simulations():
    fresh = [simulator(np.random.default_rng(10_000 + i)) for i in range(500)]
    labels = np.array([label for _, label in fresh])

    def loss_with(**options):
        few = {**SMALL, "simulator": simulator, "num_batches": 20, "learning_rate": 0.003}
        probabilities = train(**few, **options).predict([data for data, _ in fresh])
        return -np.mean(np.log(probabilities[labels == 1]))

    once, often = loss_with(), loss_with(reuse=9, schedule="cosine")
    assert often < 0.7 * once


def test_reuse__with_redraws_counts_each_once(tmp_path):
    def failing(rng):
        if rng.random() < 0.05:
            raise ValueError("no SNPs")
        return simulator(rng)

    options = {"simulator": failing, "on_simulator_error": "redraw"}
    run(tmp_path / "twin", **options)
    stop_after(80)
    with pytest.raises(SimulatorError):
        run(tmp_path / "here", **options)
    stop_after(None)
    run(tmp_path / "here", **options, resume=True)
    assert files(tmp_path / "here") == files(tmp_path / "twin")
    here, there = (read_checkpoint(tmp_path / name / "w.checkpoint.npz").redraws for name in ("here", "twin"))
    assert here == there != {}


def test_cosine__rises_then_falls_to_zero():
    fractions = np.linspace(0, 1, 1001)
    factors = np.array([cosine(fraction) for fraction in fractions])
    assert factors[0] == 0
    assert factors[50] == 1 == factors.max()
    assert abs(factors[-1]) < 1e-15
    assert (np.diff(factors[:51]) > 0).all()
    assert (np.diff(factors[50:]) < 0).all()
    np.testing.assert_allclose(factors[525], 0.5)
    np.testing.assert_allclose(factors[:51], fractions[:51] / 0.05)


NO_VALIDATION = {"validation": 0, "keep": "last"}


def rates_of(**options):
    """The learning rates of the steps of a run."""
    rates = []

    def noting(prediction, label):
        rates.append(trainers[-1].optimizer.learning_rate)
        return 0.0

    trainers = []
    init = Trainer.__init__

    def keeping(self, *arguments, **keywords):
        init(self, *arguments, **keywords)
        trainers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", keeping)
        train(**{**EVERYTHING, "accuracy": noting, "learning_rate": 0.01, "num_batches": 5, **NO_VALIDATION, **options})
    return rates


def test_schedule__sets_the_rate_of_each_step():
    assert rates_of(schedule="constant") == [0.01] * 20
    assert rates_of() == [0.01 * cosine((step + 0.5) / 20) for step in range(20)]
    assert rates_of(schedule=lambda done: 1 - done) == [0.01 * (1 - (step + 0.5) / 20) for step in range(20)]
    assert StepSettings(0.001).rate_at(3, 10) == 0.001


def test_seeds__of_reuse_and_augmentation_are_nobody_elses():
    from definetti_np.seeds import augment_rng, reuse_rng

    draws = [np.random.default_rng(example_seed(1, i, attempt)).random() for i in range(5) for attempt in range(5)]
    draws += [reuse_rng(1, step).random() for step in range(5)]
    draws += [augment_rng(1, step, place).random() for step in range(5) for place in range(5)]
    assert len(set(draws)) == 55


def bad_augment(change):
    def wrong(rows, counts, rng):
        return change(rows, counts)

    return wrong


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reuse": -1}, ValueError, "reuse must be at least 0, got -1"),
        ({"reuse": 1.5}, TypeError, "reuse must be an integer, got 1.5"),
        ({"reuse": 0, "reuse_capacity": 100}, ValueError, "reuse_capacity needs reuse to be 1 at least, got reuse_capacity=100"),
        ({"reuse_capacity": 9}, ValueError, "reuse_capacity must be at least batch_size, of which 10 are drawn at once; got 9"),
        ({"augment": "mirror"}, TypeError, r"augment must be a function \(rows, counts, rng\) -> .*; got 'mirror'"),
        ({"schedule": "cosin"}, ValueError, "schedule: unknown schedule 'cosin'; choose from 'constant', 'cosine', or give"),
        ({"schedule": 3}, ValueError, "schedule: unknown schedule 3"),
        ({"schedule": lambda done: "x"}, TypeError, r"schedule\(0.0\) must return a number, got 'x'"),
        ({"schedule": lambda done: 0.5 - done}, ValueError, r"schedule\(0.6\) must be finite and not negative, got -0.09"),
        ({"schedule": lambda done: math.nan}, ValueError, r"schedule\(0.0\) must be finite and not negative, got nan"),
        ({"augment": bad_augment(lambda r, c: (r[:, :2], c))}, ValueError, r"augment must return rows .* W and C as they were, \(3, 1\); got shape"),
        ({"augment": bad_augment(lambda r, c: (r * np.nan, c))}, ValueError, "augment must return finite rows, got nan"),
        ({"augment": bad_augment(lambda r, c: (r, -c))}, ValueError, "augment must return positive counts, got -"),
        ({"augment": augment.subsample(5)}, ValueError, "a dataset of 5 rows, the network takes 12; train with input_shape"),
    ],
)  # fmt: skip
def test_train__arguments(options, error, message):
    with pytest.raises(error, match=message):
        train(**{**EVERYTHING, **options})


def test_train__an_augmentation_that_fails_later_keeps_the_checkpoint_before(tmp_path):
    uses = 0

    def failing(rows, counts, rng):
        nonlocal uses
        uses += 1
        if uses == 4 * 40 + 15:  # within the steps that follow the fifth batch
            raise ValueError("no")
        return rows, counts

    with pytest.raises(ValueError, match="no") as caught:
        run(tmp_path, augment=failing, checkpoint_every=2)
    assert "This was batch 4 (examples 40 to 49 of seed 1)" in caught.value.__notes__[0]
    assert "w.checkpoint.npz holds the run after 4 batches" in caught.value.__notes__[0]
    assert read_checkpoint(tmp_path / "w.checkpoint.npz").adam_steps == 16


def test_subsample__trains_a_network_of_any_number_of_rows():
    model = train(**{**EVERYTHING, "input_shape": (None, 3), "augment": augment.subsample(5), "num_batches": 3})
    assert model.network.spec.input_shape == (None, 3)


def test_take_batches__gives_what_a_stream_gives_and_the_rest():
    spec = network_spec((12, 3), (2,), [], ("max",), [("softmax",)])
    source = ExampleSource(simulator, 1, spec, "cross-ent")
    taken = list(take_batches(source, StreamSettings(0), range(5, 17), 5, PATIENT))
    assert [len(labels) for _, labels in taken] == [5, 5, 2]
    with open_stream(source, StreamSettings(0), range(5, 17), {}, PATIENT) as stream:
        data, labels = stream.next_batch(12)
    assert np.concatenate([data.rows for data, _ in taken]).tobytes() == data.rows.tobytes()
    assert np.concatenate([labels for _, labels in taken]).tobytes() == labels.tobytes()
