"""The process that forks workers.

::

    main process ──subprocess──► this process: imports what workers need, once; then waits; serves all pools
        │  Spawn + descriptors ──►  fork ──► a worker, with its own line to the main process, where it says Forked
        │  ◄── Exited                         (threads, event loops, files of the main process do not exist here)

A worker is there a few milliseconds after it was asked for, and shares the memory of what is imported with the others.
Forking is safe here, because this process has one thread and nothing open.

Who ends whom: this process ends when its line to the main process is closed, or when the main process dies. It then
waits a moment for its workers, which notice the same, and kills what is left.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]

_LAST_WORKERS_SECONDS: Final = 1.0


def main(fd: int, main_pid: int, preload: list[str]) -> None:
    """Fork workers, for as long as the main process wants any.

    Parameters
    ----------
    fd
        Descriptor of the line to the main process.
    main_pid
        The main process.
    preload
        Names of the modules to import first; what cannot be imported is left out. Later pools may ask for more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # SIGINT was held back until here; and what whoever started this had blocked, SIGCHLD above all, must arrive.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    gc.disable()  # there is no garbage in what is imported
    from tilework.executor.pipelined.wire import Wire, WireClosedError

    _import(preload)
    wire = Wire(socket.socket(fileno=fd))
    died, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    watched = _watch(main_pid)
    poll = select.poll()
    for each in (wire.fileno(), died, *watched):
        poll.register(each, select.POLLIN)
    children: dict[int, int] = {}  # their tokens by number
    inherited = (died, wake, *watched)
    with contextlib.suppress(WireClosedError):
        while not any(at in watched for at, _ in poll.poll()):
            _drain(died)
            _reap(children, wire)
            frames = deque(wire.receive_nowait() if _is_readable(wire.fileno()) else ())
            while frames:
                _fork(frames.popleft(), wire, children, inherited, frames, main_pid)
    _end(children)


def _import(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(Exception):  # a worker says what is wrong with it, when it needs it
            importlib.import_module(name)
    gc.freeze()  # what all workers share is not gone through, and so not copied, by the garbage collector of each


def _watch(main_pid: int) -> list[int]:
    with contextlib.suppress(OSError, AttributeError):
        return [os.pidfd_open(main_pid)]
    return []


def _is_readable(fd: int) -> bool:
    poll = select.poll()  # the number may be too large for `select.select`
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _drain(fd: int) -> None:
    if _is_readable(fd):
        os.read(fd, 1 << 12)


def _reap(children: dict[int, int], wire: Any) -> None:
    from tilework.executor.pipelined.messages import Exited, encode

    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            wire.send(encode(Exited(children.pop(pid), os.waitstatus_to_exitcode(status))))


def _fork(
    frame: Any, wire: Any, children: dict[int, int], inherited: tuple[int, ...], others: Iterable[Any], main_pid: int
) -> None:
    from tilework.executor.pipelined.messages import decode
    from tilework.executor.pipelined.wire import WireClosedError

    message = decode(frame.body)
    if message.preload:
        _import(message.preload)
    wire_fd, stderr_fd = frame.descriptors
    try:
        pid = os.fork()
    except OSError as error:  # the line of the worker that there is not ends, and this is the last it wrote
        with contextlib.suppress(OSError):
            os.write(stderr_fd, f"no process can be forked: {error}\n".encode())
        _close(frame.descriptors)
        return
    if pid == 0:
        code = 1
        try:
            wire.close()
            _close(inherited)
            for other in others:  # a copy of its line in here would keep that open
                _close(other.descriptors)
            code = _be_worker(wire_fd, stderr_fd, main_pid)
        except WireClosedError:  # nobody wants it any more
            code = 0
        except BaseException:  # noqa: BLE001  (all that can still be done is to say what it was)
            with contextlib.suppress(Exception):
                traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            os._exit(code)
    children[pid] = message.token
    _close(frame.descriptors)


def _close(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _end(children: dict[int, int]) -> None:
    """Wait for the workers, which should end by themselves; kill those that do not."""
    signal.set_wakeup_fd(-1)
    until = time.monotonic() + _LAST_WORKERS_SECONDS
    while children:
        for pid in list(children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del children[pid]
            elif time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    os._exit(0)


# ---- in the worker ----


def _be_worker(wire_fd: int, stderr_fd: int, main_pid: int) -> int:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(stderr_fd, 2)
    os.close(stderr_fd)
    faulthandler.enable()
    gc.enable()
    threading.Thread(target=_end_with, args=(main_pid,), name="watch", daemon=True).start()
    from tilework.executor.forked import reseed
    from tilework.executor.pipelined.arena import Arena, ArenaReader
    from tilework.executor.pipelined.control import ControlPage
    from tilework.executor.pipelined.messages import Arrived, Forked, Setup, decode, encode
    from tilework.executor.pipelined.wire import Wire
    from tilework.executor.pipelined.worker import serve
    from tilework.executor.pipelined.worker_queues import MessageQueue, RequestQueue, ResponseQueue, WorkerQueues

    reseed()
    with contextlib.closing(Wire(socket.socket(fileno=wire_fd))) as wire:
        me = os.pidfd_open(os.getpid())
        wire.send(encode(Forked(os.getpid())), (me,))
        os.close(me)
        frame = wire.receive()
        assert frame is not None
        setup = decode(frame.body)
        assert isinstance(setup, Setup)
        sys.path[:] = setup.sys_path
        sys.argv[:] = setup.sys_argv
        with contextlib.suppress(OSError):
            os.chdir(setup.cwd)
        os.environ.clear()
        os.environ.update(setup.environ)
        page_fd, arena_fd = frame.descriptors
        arena = Arena(setup.result_budget, setup.folder)
        wire.send(encode(Arrived(arena.size)), (arena.fd,))
        queues = WorkerQueues(
            RequestQueue(
                wire, ControlPage(page_fd), setup.row, ArenaReader(arena_fd, setup.arena_size, writable=False)
            ),
            ResponseQueue(wire, arena),
            MessageQueue(wire),
        )
        return serve(queues, setup.spec, setup.worker_fn)


def _end_with(main_pid: int) -> None:
    """End this process when the main process does, whatever its main thread is doing then."""
    for fd in _watch(main_pid):
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGKILL)
