"""Candidates in processes of their own: the threads, memory and settings of one cannot disturb another."""

import contextlib
import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Mapping

from common import use_cores


class Remote:
    """An object that is made, and whose methods are called, in a new process on `cores` cores.

    While it is not asked it waits for its pipe, and takes no processor time.
    """

    def __init__(self, name: str, cores: int, make: Callable, *arguments):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, cores, make, arguments))
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments):
        """Call a method there, and return what it returns."""
        try:
            self._connection.send((method, arguments))
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None
        if failed:
            raise RuntimeError(f"{self.name}:\n{answer}")
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join()


@contextlib.contextmanager
def in_processes(candidates: Mapping[str, tuple], cores: int) -> Iterator[dict[str, Remote]]:
    """Start a `Remote` for each ``name: (make, *arguments)``, and end them all afterwards."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(contextlib.closing(Remote(name, cores, *candidate)))
            for name, candidate in candidates.items()
        }


def _serve(connection, cores: int, make: Callable, arguments: tuple) -> None:
    use_cores(cores)  # before anything is imported that starts threads
    target = None
    while True:
        try:
            method, parameters = connection.recv()
        except EOFError:
            return
        try:
            if target is None:
                target = make(*arguments)
            answer = False, getattr(target, method)(*parameters)
        except Exception:
            answer = True, traceback.format_exc()
        connection.send(answer)
