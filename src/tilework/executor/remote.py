"""What crosses the line between processes: objects by cloudpickle, and errors that always arrive.

An exception of a worker must reach the user whatever it is made of. It travels as itself when it can be pickled and
unpickled, which is tried where it was raised, in the usual way first, and then without its constructor; its text and
traceback travel beside it as plain strings, so that there is something to show when it cannot. What asks an
interpreter to end, SystemExit and KeyboardInterrupt, must not end the user's: it arrives as a `RemoteError`.
"""

from __future__ import annotations

import io
import pickle
import traceback
from dataclasses import dataclass
from typing import Any, Final

from tilework.exceptions import RemoteError

__all__ = [
    "PackedError",
    "RemoteTraceback",
    "contained",
    "describe_error",
    "dumps",
    "dumps_apart",
    "loads",
    "pack_error",
    "unpack_error",
]

PROTOCOL: Final = 5
_MOST_TEXT: Final = 1 << 20
"""How much of what is said beside an exception travels, in characters: its own text is part of the exception."""


def dumps(obj: Any) -> bytes:
    """Pickle an object, classes and functions of ``__main__`` and of notebooks included.

    Raises
    ------
    Exception
        Of any kind, when it cannot be pickled.
    """
    return dumps_apart(obj, None)[0]


def dumps_apart(obj: Any, smallest: int | None) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object, but leave out its large buffers (pickle protocol 5).

    Parameters
    ----------
    obj
        The object.
    smallest
        Size of the smallest buffer that is left out, in bytes; None leaves out nothing.

    Returns
    -------
    pickled, buffers
        Give both to ``loads(pickled, buffers=buffers)``; the buffers are those of the object itself, not copies.

    Raises
    ------
    Exception
        Of any kind, when it cannot be pickled.
    """
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        if smallest is None or buffer.raw().nbytes < smallest:
            return True
        buffers.append(buffer)
        return False

    # Several times as fast as cloudpickle, but it refers to what others cannot import: then the name of that is inside.
    if cloudpickle.list_registry_pickle_by_value() <= {"__mp_main__"}:
        try:
            pickled = pickle.dumps(obj, PROTOCOL, buffer_callback=keep_inside)
            if b"__main__" not in pickled and b"__mp_main__" not in pickled:
                return pickled, buffers
        except Exception:  # noqa: BLE001, S110  (whatever it is, cloudpickle may do better, or say what is wrong)
            pass
        buffers.clear()
    from tilework.executor.by_value import ByValuePickler

    file = io.BytesIO()
    ByValuePickler(file, PROTOCOL, keep_inside).dump(obj)
    return file.getvalue(), buffers


loads = pickle.loads  # what is written by value needs cloudpickle and nothing else


class RemoteTraceback(Exception):
    """The traceback of an error on a worker, as text; the ``__cause__`` of the error that arrives."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


@dataclass(frozen=True, slots=True)
class PackedError:
    """An exception on its way between processes."""

    pickled: bytes | None
    """The exception; None when it cannot travel."""
    summary: str
    """Its type and text."""
    traceback: str
    """Its traceback, as Python prints it."""
    obstacle: str = ""
    """Why it cannot travel."""


def describe_error(error: BaseException) -> str:
    """Return type and text of an exception, whatever its attributes do."""
    try:
        return "".join(traceback.format_exception_only(error)).strip()
    except Exception as obstacle:  # noqa: BLE001  (users' code runs in there)
        return f"{type(error).__name__}, whose text cannot be had: {type(obstacle).__name__}"


def _describe_traceback(error: BaseException) -> str:
    """Return the traceback of an exception, as Python prints it, or as much of it as can be had."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:  # noqa: BLE001  (users' code runs in there)
        calls = traceback.format_tb(object.__getattribute__(error, "__traceback__"))
        return "".join([*calls, describe_error(error), "\n"])


def contained(error: BaseException) -> Exception:
    """Return an error of a task, in this process, as one that may be raised where its result is waited for."""
    if isinstance(error, Exception):
        return error
    stand_in = RemoteError(f"{describe_error(error)} (raised by a task; it must not end the program that waits for it)")
    stand_in.__cause__ = error
    return stand_in


def pack_error(error: BaseException) -> PackedError:
    """Make an exception ready to travel; never raises."""
    summary = _shortened(describe_error(error))
    text = _shortened(_describe_traceback(error))
    if not isinstance(error, Exception):
        return PackedError(None, summary, text, f"a {type(error).__name__} must not end the program that waits for it")
    try:
        pickled, back = _there_and_back(error)
        if _text_of(error) and not _text_of(back):  # for Dask, tblib makes errors without their constructors
            raise _needs_constructor(error)
    except BaseException as obstacle:  # noqa: BLE001  (users' code runs in there)
        try:
            pickled, back = _there_and_back_bare(error)
        except BaseException:  # noqa: BLE001
            return PackedError(None, summary, text, describe_error(obstacle))
    if not isinstance(back, Exception):
        return PackedError(None, summary, text, f"it is unpickled as a {type(back).__name__}")
    return PackedError(pickled, summary, text)


def _shortened(text: str) -> str:
    """Return a text without its middle when it is so long that nobody would read it."""
    left_out = len(text) - _MOST_TEXT
    if left_out <= 0:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[... {left_out} characters left out ...]\n{text[-half:]}"


def _there_and_back(obj: Any) -> tuple[bytes, Any]:
    pickled = dumps(obj)
    return pickled, loads(pickled)


def _there_and_back_bare(error: Exception) -> tuple[bytes, Any]:
    pickled, back = _there_and_back(_Bare(error))
    if str(back) != str(error):
        raise _needs_constructor(error)
    return pickled, back


def _text_of(error: object) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (users' code runs in there)
        return ""


def _needs_constructor(error: Exception) -> TypeError:
    return TypeError(f"a {type(error).__name__} has its text from its constructor")  # in C, as UnicodeDecodeError has


class _Bare:
    """Stands for an exception that is made without its constructor, which may want other arguments than it keeps."""

    def __init__(self, error: Exception) -> None:
        if type(error).__reduce__ is not BaseException.__reduce__:
            msg = f"{type(error).__name__} says itself how it is pickled"
            raise TypeError(msg)
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_bare, (type(self._error), self._error.args, self._error.__dict__)


def _make_bare(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    if state:
        error.__setstate__(state)
    return error


def unpack_error(packed: PackedError) -> Exception:
    """Return the exception, with the worker's traceback as its cause; a `RemoteError` when it could not travel."""
    obstacle = packed.obstacle
    error: Exception | None = None
    if packed.pickled is not None:
        try:
            arrived = loads(packed.pickled)
            if isinstance(arrived, Exception):
                error = arrived
            else:
                obstacle = f"it is unpickled as a {type(arrived).__name__}"
        except BaseException as e:  # noqa: BLE001  (users' code runs in there)
            obstacle = describe_error(e)
    if error is None:
        error = RemoteError(f"{packed.summary} (raised on a worker; it could not be sent as it is: {obstacle})")
    error.__cause__ = RemoteTraceback(packed.traceback)
    return error
