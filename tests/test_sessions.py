"""Tests find the same signals however they are started."""

import signal
import subprocess
import sys

from sessions import LIVES, STAY_IGNORED

IGNORING = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
LOOK = f"""
import signal, subprocess, sys
sys.path.insert(0, {str(LIVES.parent)!r})
before = {{n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}}
import conftest
after = {{n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}}
print(len(before), sorted(map(int, after)), signal.pthread_sigmask(signal.SIG_BLOCK, []))
signal.raise_signal(signal.SIGHUP)
print(subprocess.run([sys.executable, "-c", "import signal; print(signal.getsignal(1))"], capture_output=True).stdout)
signal.raise_signal(signal.SIGINT)
"""


def test_signals__act_where_whoever_started_the_tests_ignores_and_blocks_them():
    done = subprocess.run([sys.executable, "-c", IGNORING, LOOK], capture_output=True, text=True, timeout=60)
    everything = len(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
    assert done.stdout == f"{everything} {sorted(map(int, STAY_IGNORED))} set()\nb'0\\n'\n", done.stderr
    assert done.stderr.endswith("KeyboardInterrupt\n")
