"""Workers of Dask may be killed, or be stopped for ever, and a run ends in the same bits."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from disasters import sha_of_training, simulator, with_disaster

from definetti_np.simulation import executors
from definetti_np.simulation.executors import number_of_workers

distributed = pytest.importorskip("distributed")  # of the extra `clusters`: a user has his own engine, or none

pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own are not ours to mend


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Stop:
    """Stops the worker that it is called in, after it has written its process down for the test to end it."""

    def __init__(self, path):
        self.path = path

    def __call__(self):
        self.path.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


@pytest.fixture
def stop(tmp_path):
    path = Path(tmp_path) / "pid"
    yield Stop(path)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(path.read_text()), signal.SIGKILL)


def test_train__a_dask_worker_that_is_killed_or_stopped_changes_nothing(tmp_path, client, stop, monkeypatch, caplog):
    monkeypatch.setattr(executors, "LEAST_LATE_SECONDS", 0.5)
    folders = [tmp_path / name for name in ("undisturbed", "killed", "stopped")]
    for path in folders:
        path.mkdir()
    expected = sha_of_training(folders[0], simulator, sim_threads=0)
    executor = client.get_executor()
    assert number_of_workers(executor) == 2
    for path, disaster in zip(folders[1:], (kill, stop), strict=True):
        function = with_disaster(path, disaster, [60])
        assert sha_of_training(path, function, executor=executor, queue_capacity=None) == expected
        assert (path / "60.0").exists(), "it has happened"
    assert any("have not come back from the executor" in message for message in caplog.messages)
