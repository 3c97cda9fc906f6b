"""All exceptions of tilework, in one tree.

::

    TileworkError
    ├── ExecutorError                 something about an executor or its workers
    │   ├── ExecutorSpecException     (also ValueError) an executor was asked for with arguments that do not fit
    │   ├── NoSchedulerError          (also OSError) no Dask scheduler answers at an address
    │   ├── ResourceError             (also RuntimeError) no worker has what a task needs
    │   ├── PoolStateError            (also RuntimeError) worker processes did not start, or are gone
    │   ├── WorkerLostError           (also RuntimeError) a task lost its worker too often
    │   └── RemoteError               (also RuntimeError) an exception of a worker that could not travel itself
    ├── JobCancelledError             a run was cancelled, or its data source was interrupted
    │   └── DeadlineExceededError     (also TimeoutError) a run took longer than it was given
    ├── UDFException                  a user-defined function broke the rules
    │   ├── NoMetaError               (also AttributeError) a function asked for facts of a run outside of one
    │   ├── NoBackendError            (also RuntimeError, ValueError) a function gets no kind of array that it can use
    │   ├── MissingMethodError        (also TypeError) a function has no method that processes data
    │   ├── MissingMergeError         (also NotImplementedError) nobody says how partial results are put together
    │   ├── UndeclaredResultError     (also KeyError) a function returns a result that it did not declare
    │   └── UnfitResultError          (also ValueError) a function returns something else than it declared
    ├── UDFRunCancelled               `Context.run_udf` ended early because the run was cancelled
    ├── WorkerQueueEmpty              a worker's queue holds nothing, or nothing arrived in time
    ├── DataSetException              a dataset cannot be opened, does not fit, or lies about its size
    │   ├── MissingFileError          (also FileNotFoundError) there is no such file
    │   └── UnknownFormatError        the format of a file cannot be found out
    ├── SliceUsageError               (also ValueError) slices or shapes were combined that do not fit together
    ├── CorrectError                  detector corrections cannot be applied to this array
    ├── RepairValueError              (also ValueError) an excluded pixel has no neighbour to repair it from
    ├── MyStopIteration               a StopIteration of a function, which neither await nor generators can carry
    ├── UnknownAnalysisError          (also KeyError) there is no analysis of this name
    ├── MissingResultError            (also KeyError, AttributeError) there is no result of this name
    ├── ResultFileError               (also OSError) results cannot be written
    └── CommandError                  the ``tilework`` command cannot do what it was asked for

Names that users' programs already catch are kept. An exception class says what kind of thing went wrong; its message
says what exactly, where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CommandError",
    "CorrectError",
    "DataSetException",
    "DeadlineExceededError",
    "ExecutorError",
    "ExecutorSpecException",
    "JobCancelledError",
    "MissingFileError",
    "MissingMergeError",
    "MissingMethodError",
    "MissingResultError",
    "MyStopIteration",
    "NoBackendError",
    "NoMetaError",
    "NoSchedulerError",
    "PoolStateError",
    "RemoteError",
    "RepairValueError",
    "ResourceError",
    "ResultFileError",
    "SliceUsageError",
    "TileworkError",
    "UDFException",
    "UDFRunCancelled",
    "UndeclaredResultError",
    "UnfitResultError",
    "UnknownAnalysisError",
    "UnknownFormatError",
    "WorkerLostError",
    "WorkerQueueEmpty",
    "ended_iteration",
]


class TileworkError(Exception):
    """Base of all exceptions that tilework itself raises."""


class ExecutorError(TileworkError):
    """Something about an executor or its workers."""


class ExecutorSpecException(ExecutorError, ValueError):
    """A context or executor was asked for with arguments that do not fit together or the machine."""


class NoSchedulerError(ExecutorError, OSError):
    """No Dask scheduler answers at an address; programs may start a cluster of their own then."""


class ResourceError(ExecutorError, RuntimeError):
    """No worker has the resources that a task needs."""


class PoolStateError(ExecutorError, RuntimeError):
    """A pool of worker processes is not in the state that an operation needs: some did not start, or it is closed."""


class WorkerLostError(ExecutorError, RuntimeError):
    """A task lost its worker so often that the run was given up."""


class RemoteError(ExecutorError, RuntimeError):
    """Stands for an exception of a worker that could not be pickled; carries its text and traceback."""


class JobCancelledError(TileworkError):
    """A run was cancelled, or the source of its data was interrupted."""


class DeadlineExceededError(JobCancelledError, TimeoutError):
    """A run took longer than the time it was given."""


class UDFException(TileworkError):
    """A user-defined function broke the rules; the message names the function and the buffer."""


class NoMetaError(UDFException, AttributeError):
    """Facts of a run were asked for outside of one; so ``hasattr(udf, "meta")`` says whether there are any."""


class NoBackendError(UDFException, RuntimeError, ValueError):
    """There is no kind of array that a function can use, the run allows, and a worker has."""


class MissingMethodError(UDFException, TypeError):
    """A function has none of the methods that process data."""


class MissingMergeError(UDFException, NotImplementedError):
    """A function has results that cannot be put together without its own ``merge``."""


class UndeclaredResultError(UDFException, KeyError):
    """A function returns a result that it did not declare."""

    __str__ = Exception.__str__  # a KeyError would show the message in quotes


class UnfitResultError(UDFException, ValueError):
    """A function returns a result of another shape or kind of dtype than it declared."""


class UDFRunCancelled(TileworkError):
    """A run of user-defined functions ended early because it was cancelled."""


class WorkerQueueEmpty(TileworkError):
    """A worker's queue holds nothing, or nothing arrived within the time that was given."""


class DataSetException(TileworkError):
    """A dataset cannot be opened, does not fit its parameters, or lies about its size."""


class MissingFileError(DataSetException, FileNotFoundError):
    """There is no file of the name that was given."""


class UnknownFormatError(DataSetException):
    """The format of a file cannot be found out from the file."""


class MyStopIteration(TileworkError):
    """Stands for a StopIteration that a function raised, which neither a coroutine nor a generator can raise again."""


class SliceUsageError(TileworkError, ValueError):
    """Slices or shapes were combined that do not fit together; the message shows both."""


class CorrectError(TileworkError):
    """Detector corrections cannot be applied to this array."""


class RepairValueError(TileworkError, ValueError):
    """An excluded pixel has no usable neighbour that it could be repaired from; the message names it."""


class UnknownAnalysisError(TileworkError, KeyError):
    """There is no analysis of this name."""

    __str__ = Exception.__str__


class MissingResultError(TileworkError, KeyError, AttributeError):
    """There is no result of this name, whether it was asked for as an item or as an attribute."""

    __str__ = Exception.__str__


class ResultFileError(TileworkError, OSError):
    """Results cannot be written where they were asked for."""


class CommandError(TileworkError):
    """The ``tilework`` command cannot do what it was asked for; the message names argument or file, and remedy."""


def ended_iteration(who: str, error: StopIteration) -> str:
    """Return the message for a StopIteration, which by itself only says to whoever iterates that there is no more."""
    return f"{who} raised {error!r}: next() was called on an iterator that has no more"
