import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cutmix_zoo.training.preemption import SIGNALS, StopRequest, stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_becomes_a_request_and_handlers_come_back(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    watched = (*SIGNALS, signal.SIGCHLD)
    before = [signal.getsignal(each) for each in watched]
    with stop_requests() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal is number
        os.kill(os.getpid(), signal.SIGTERM)  # asking again changes nothing
        assert stop.signal is number
    assert [signal.getsignal(each) for each in watched] == before
    assert capfd.readouterr().err == f"\n{number.name}: stopping and saving after this step\n"


def test_a_second_ctrl_c_interrupts_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt_twice() -> None:
        with stop_requests():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_iteration_ends_when_a_stop_is_asked_for() -> None:
    stop, seen = StopRequest(), []
    for item in stop.until(range(10)):
        seen.append(item)
        if item == 3:
            stop.signal = signal.SIGTERM
    assert seen == [0, 1, 2, 3]


def test_a_handler_that_python_does_not_know_is_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    # what C code has installed is None to Python
    original = signal.signal
    monkeypatch.setattr(signal, "signal", lambda number, handler: (original(number, handler), None)[1])
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.undo()
    assert stop.signal is signal.SIGTERM
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_DFL


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_taken() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_requests() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
def test_the_death_of_the_launcher_is_a_signal() -> None:
    child = (
        "import os, signal, sys, time; sys.path.insert(0, sys.argv[1]); "
        "from cutmix_zoo.training.preemption import stop_with_launcher; stop_with_launcher(); "
        # not print: the signal may come while the child prints that it is ready
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'told\\n'), sys.exit())); "
        "print('ready', flush=True); time.sleep(60)"
    )
    # the launcher starts the child and is killed once the child is ready; the pipe outlives it
    launcher = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", launcher, child, str(Path.cwd())], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.readline() == "told\n"
