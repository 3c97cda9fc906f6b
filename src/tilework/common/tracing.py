"""OpenTelemetry spans that cost nothing when nobody looks.

Only the API of OpenTelemetry is used, and it is imported when ``OTEL_ENABLE`` is set in the environment or the program
has imported it already: until then a tracer gives out spans that do nothing.
"""

from __future__ import annotations

import contextvars
import os
import sys
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from tilework.exceptions import DeadlineExceededError, JobCancelledError, UDFRunCancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = [
    "RunSpan",
    "TracedThreadPoolExecutor",
    "Tracer",
    "add_partition_to_span",
    "attach_to_parent",
    "current_span_context",
    "errors_recorded",
    "get_tracer",
    "is_tracing",
    "maybe_setup_tracing",
    "send_spans",
    "setup_tracing",
]

T = TypeVar("T")
P = ParamSpec("P")

_API = "opentelemetry.trace"


def _is_enabled() -> bool:
    return os.environ.get("OTEL_ENABLE", "") not in {"", "0"}


def is_tracing() -> bool:
    """Return whether spans may reach somebody: the API of OpenTelemetry is imported."""
    return _API in sys.modules


class _NoSpan(AbstractContextManager[Any]):
    """A span that does nothing. There is one for all."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        return None

    def is_recording(self) -> bool:
        return False

    def get_span_context(self) -> None:
        return None

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    set_attribute = set_attributes = add_event = record_exception = set_status = update_name = end = _ignore


_no_span = _NoSpan()


class Tracer:
    """Starts spans, real ones as soon as OpenTelemetry is in use.

    Parameters
    ----------
    name
        Module whose spans these are.
    """

    __slots__ = ("_name", "_real")

    def __init__(self, name: str) -> None:
        self._name = name
        self._real: Any = None

    def start_as_current_span(self, name: str, **kwargs: Any) -> AbstractContextManager[Any]:
        """Start a span that ends with the block; arguments as for a tracer of OpenTelemetry."""
        if _API not in sys.modules:
            return _no_span
        span: AbstractContextManager[Any] = self._make().start_as_current_span(name, **kwargs)
        return span

    def start_span(self, name: str, **kwargs: Any) -> Any:
        """Start a span that does not become the current one, and lasts until its `end` is called."""
        return self._make().start_span(name, **kwargs) if _API in sys.modules else _no_span

    def _make(self) -> Any:
        if self._real is None:
            from opentelemetry import trace

            self._real = trace.get_tracer(self._name)
        return self._real


def get_tracer(name: str) -> Tracer:
    """Return a tracer for the spans of one module; to be called with ``__name__``."""
    if _is_enabled():
        import opentelemetry.trace  # noqa: F401
    return Tracer(name)


class RunSpan:
    """The span of a run, in whose trace its tasks are.

    It begins as a child of the span that is current when it is made, and is never current itself: a run may be driven
    step by step, by any thread, with all kinds of work in between.

    Parameters
    ----------
    tracer
        Starts the span.
    name
        Of the span.
    """

    def __init__(self, tracer: Tracer, name: str) -> None:
        self._tracer = tracer
        self._name = name
        self._parent = None
        self._began = time.time_ns()
        if is_tracing():
            from opentelemetry import context

            self._parent = context.get_current()

    @contextmanager
    def recording(self, describe: Callable[[], dict[str, Any]]) -> Iterator[Any]:
        """Record the span until the block ends; an error that ends it is written down.

        Parameters
        ----------
        describe
            Returns the attributes of the span; called when somebody looks.

        Yields
        ------
        SpanContext or None
            For the tasks; None when nobody looks, so that it costs them nothing.
        """
        if not is_tracing():
            yield None
            return
        span = self._tracer.start_span(self._name, context=self._parent, attributes=describe(), start_time=self._began)
        try:
            with errors_recorded(span):
                context = span.get_span_context()
                yield context if context.is_valid else None
        finally:
            span.end()


@contextmanager
def errors_recorded(span: Any) -> Iterator[None]:
    """Write into a span what ends the block, and raise it."""
    try:
        yield
    except BaseException as error:
        _record_error(span, error)
        raise


def _record_error(span: Any, error: BaseException) -> None:
    """Write into a span what ended it: an error, or that somebody wanted it to end, which is none."""
    if not span.is_recording():
        return
    is_cancel = isinstance(error, JobCancelledError | UDFRunCancelled) and not isinstance(error, DeadlineExceededError)
    if is_cancel or not isinstance(error, Exception):
        span.set_attribute("tilework.cancelled", True)
        return
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def current_span_context() -> Any:
    """Return the context of the current span, to be pickled and given to `attach_to_parent`; None without one."""
    if not is_tracing():
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


@contextmanager
def attach_to_parent(span_context: Any) -> Iterator[None]:
    """Let spans started inside the block be children of a span of another thread or process.

    Parameters
    ----------
    span_context
        What `current_span_context` returned there. None changes nothing.
    """
    if span_context is None:
        yield
        return
    from opentelemetry import context, trace

    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(span_context)))
    try:
        yield
    finally:
        context.detach(token)


def add_partition_to_span(partition: Any) -> None:
    """Write into the current span which partition is being worked on, and where in the data it is if that is known."""
    if not is_tracing():
        return
    from opentelemetry import trace

    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute("tilework.partition.ident", partition.get_ident())
        part = getattr(partition, "slice", None)
        if part is not None:
            span.set_attribute("tilework.partition.origin", part.origin)
            span.set_attribute("tilework.partition.shape", tuple(part.shape))


class TracedThreadPoolExecutor(ThreadPoolExecutor):
    """A thread pool whose functions run as children of the span in which they were submitted.

    They run in a copy of the context (`contextvars`) of whoever submits them, in a span with the function's name.

    Parameters
    ----------
    tracer
        Starts the spans.
    args, kwargs
        For `concurrent.futures.ThreadPoolExecutor`.
    """

    def __init__(self, tracer: Tracer, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tracer = tracer

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)``."""
        name = getattr(fn, "__qualname__", type(fn).__qualname__)

        def call() -> T:
            with self._tracer.start_as_current_span(name):
                return fn(*args, **kwargs)

        return super().submit(contextvars.copy_context().run, call)


def maybe_setup_tracing(service_name: str, service_id: str | None = None, otlp_endpoint: str | None = None) -> None:
    """Call `setup_tracing` if ``OTEL_ENABLE`` is set in the environment (and not 0) and spans go nowhere yet.

    Parameters are those of `setup_tracing`.
    """
    if not _is_enabled():
        return
    from opentelemetry import trace

    # There is one for all of a process: another one would be refused, and its thread would stay.
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        setup_tracing(service_name, service_id, otlp_endpoint)


def setup_tracing(service_name: str, service_id: str | None = None, otlp_endpoint: str | None = None) -> None:
    """Send the spans of this process to an OTLP collector, through gRPC.

    Parameters
    ----------
    service_name
        What this process is, for example ``"tilework-worker"``.
    service_id
        Which one of several it is.
    otlp_endpoint
        Address of the collector; None: ``OTEL_EXPORTER_OTLP_ENDPOINT`` of the environment, or else
        ``http://localhost:4317``.

    Warns
    -----
    RuntimeWarning
        When the SDK or the exporter of OpenTelemetry is not installed; then nothing is sent.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        msg = f"no spans are sent, since {e.name} is not installed: pip install 'tilework[tracing]'"
        warnings.warn(msg, RuntimeWarning, stacklevel=2)
        return
    attributes = {"service.name": service_name}
    if service_id is not None:
        attributes["service.instance.id"] = service_id
    endpoint = otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4317"
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)


def send_spans(seconds: float = 1.0) -> None:
    """Send the spans that wait to be sent, as a process must that ends without what Python does at its end.

    Parameters
    ----------
    seconds
        How long that may take: nobody may listen.
    """
    if not is_tracing():
        return
    from opentelemetry import trace

    provider: Any = trace.get_tracer_provider()
    if not hasattr(provider, "force_flush"):  # nobody records
        return

    def flush() -> None:
        with suppress(Exception):
            provider.force_flush()

    # Those who send do not keep to the time that they are given.
    thread = Thread(target=flush, daemon=True)
    thread.start()
    thread.join(seconds)
