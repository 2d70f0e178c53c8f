"""Draws that fail and are repeated: which ones, how often, and when it is too much, for any number of workers."""

import numpy as np
import pytest
from disasters import SMALL, index_of, sha_of_training, simulator

from definetti_np import SimulatorError, simulate_example, train
from definetti_np.simulation.source import MOST_REASONS, NO_REDRAWS, Example, ExampleSource, Redraws
from definetti_np.simulation.stream import SerialStream, StreamSettings
from definetti_np.simulation.workers import WorkerStream
from definetti_np.specs import network_spec

SPEC = network_spec(SMALL["input_shape"], SMALL["output_shape"], SMALL["phi_net"], ("max",), SMALL["h_net"])
REDRAW = {"on_simulator_error": "redraw", "max_redraw_fraction": 0.5}


def unreliable(rng):
    data, label = simulator(rng)
    luck = rng.random()
    if luck < 0.1:
        raise ValueError("no mutations\nat all")
    if luck < 0.2:
        raise ZeroDivisionError("\udcff\x85\u2028 no data")
    if luck < 0.3:
        data[0] = np.nan
    return data, label


def streams(source, max_redraw_fraction, first=0, redraws=NO_REDRAWS):
    for workers in (0, 1, 2, 7):
        settings = StreamSettings(workers, queue_capacity=50, max_redraw_fraction=max_redraw_fraction)
        stream = WorkerStream if workers else SerialStream
        yield stream(source, settings, range(first, 10**6), redraws)


def test_train__redraws_give_the_same_file_for_any_number_of_workers(tmp_path):
    files = {sha_of_training(tmp_path, unreliable, **REDRAW, sim_threads=workers) for workers in (0, 1, 2, 7)}
    files.add(sha_of_training(tmp_path, unreliable, **REDRAW, sim_threads=2, start_method="spawn"))
    assert len(files) == 1


def test_streams__redraws_are_counted_by_reason():
    seen = set()
    for stream in streams(ExampleSource(unreliable, 1, SPEC, "cross-ent", "redraw"), max_redraw_fraction=0.9):
        with stream:
            for _ in range(20):
                stream.next_batch(10)
            seen.add(tuple(stream.redraws.items()))
    assert len(seen) == 1
    reasons = dict(*seen)
    assert set(reasons) == {
        "ValueError: no mutations",
        "ZeroDivisionError: \\udcff no data",
        "data must be finite in float32",
    }
    assert all(5 < number < 60 for number in reasons.values())


def test_streams__a_part_of_a_run_goes_on_counting():
    source = ExampleSource(unreliable, 1, SPEC, "cross-ent", "redraw")
    with next(streams(source, max_redraw_fraction=0.9)) as whole:
        whole.next_batch(40)
        first_part = dict(whole.redraws)
        whole.next_batch(40)
    for stream in streams(source, first=40, redraws=first_part, max_redraw_fraction=0.9):
        with stream:
            stream.next_batch(40)
            assert stream.redraws == whole.redraws
    assert sum(first_part.values()) < sum(whole.redraws.values())


def test_source__an_attempt_is_the_documented_draw():
    source = ExampleSource(unreliable, 1, SPEC, "cross-ent", "redraw")
    examples = [source.example(i) for i in range(200)]
    assert max(len(example.redraws) for example in examples) >= 3
    for index, example in enumerate(examples):
        attempt = len(example.redraws)
        _, label = simulate_example(unreliable, seed=1, index=index, attempt=attempt)
        np.testing.assert_array_equal(label, example.label)
        key = (index, attempt) if attempt else (index,)
        data, _ = simulator(np.random.default_rng(np.random.SeedSequence(1, spawn_key=key)))
        assert np.unique(data.astype(np.float32), axis=0).shape == example.rows.shape[:2]


def test_source__the_reproducing_line_names_the_attempt():
    def failing(rng):
        if index_of(rng) == 3:
            if len(rng.bit_generator.seed_seq.spawn_key) == 1:
                raise ValueError("again")
            return None
        return simulator(rng)

    with pytest.raises(SimulatorError, match=r"simulate_example\(simulator, seed=1, index=3, attempt=1\)"):
        ExampleSource(failing, 1, SPEC, "cross-ent", "redraw").example(3)


def raise_memory_error():
    raise MemoryError


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raise_memory_error, "MemoryError"),
        (lambda: exit(3), "SystemExit"),
        (lambda: (np.zeros((5, 3)), np.array([0.0, 1])), r"data of shape \(5, 3\)"),
        (lambda: None, "must return a tuple"),
        (lambda: (np.zeros((12, 3)), np.array([1.0, 1])), "must be a probability distribution"),
    ],
)
def test_source__bugs_are_not_drawn_again(function, message):
    calls = []
    source = ExampleSource(lambda: (calls.append(1), function())[1], 1, SPEC, "cross-ent", "redraw")
    with pytest.raises(SimulatorError, match=message):
        source.example(0)
    assert len(calls) == 1


def test_source__an_example_that_always_fails_ends_it():
    calls = []
    source = ExampleSource(lambda: calls.append(1 / 0), 1, SPEC, "cross-ent", "redraw")
    with pytest.raises(SimulatorError, match="index=0, attempt=99\\)\nAll 100 draws of this example failed"):
        source.example(0)


def test_train__too_many_redraws_end_it_at_the_same_batch():
    ends = []
    for stream in streams(ExampleSource(unreliable, 1, SPEC, "cross-ent", "redraw"), max_redraw_fraction=0.25):
        with stream:
            for batch in range(100):
                try:
                    stream.next_batch(10)
                except SimulatorError as error:
                    ends.append((batch, str(error)))
                    break
    assert len(ends) == 4
    assert len(set(ends)) == 1
    assert "draws failed and were repeated" in ends[0][1]
    assert "times ValueError: no mutations" in ends[0][1]
    assert "more than max_redraw_fraction=0.25" in ends[0][1]
    assert ends[0][0] >= 13, "not before the 200th draw"


def test_redraws__reasons_that_never_repeat_are_counted_together():
    redraws = Redraws(1, {})
    redraws.count([Example(None, None, None, (f"ValueError: {i}",)) for i in range(1000)], 1000)
    assert len(redraws.counts) == MOST_REASONS + 1
    assert redraws.counts["other reasons"] == 1000 - MOST_REASONS


def test_train__tells_of_redraws_at_the_end(caplog):
    train(simulator=unreliable, **SMALL, **REDRAW, sim_threads=2)
    [message] = [record.getMessage() for record in caplog.records]
    assert "draws failed and were repeated" in message
    train(simulator=simulator, **SMALL, **REDRAW, sim_threads=2)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_simulator_error": "skip"}, "on_simulator_error: unknown choice 'skip'; choose from 'raise', 'redraw'"),
        ({"max_redraw_fraction": 1.5}, "max_redraw_fraction must be at most 1, got 1.5"),
        ({"max_redraw_fraction": 0}, "max_redraw_fraction must be positive"),
    ],
)
def test_train__arguments_of_redraws(options, message):
    with pytest.raises(ValueError, match=message):
        train(simulator=simulator, **SMALL, **options)
