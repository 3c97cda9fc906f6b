"""What every live plot does: pick a channel of the results, limit how often it is shown, say where data is there."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.arrays import without_mask
from tilework.viz.pixels import within_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilework.io.dataset.base import DataSet
    from tilework.udf.base import UDF

__all__ = ["Channel", "Dummy2DPlot", "Live2DPlot", "PicturePlot", "get_plottable_2D_channels", "is_pair"]

Array = np.ndarray[Any, np.dtype[Any]]
Extract = Callable[[Any, "NDArray[np.bool_]"], tuple[Array, Array]]
# Along the longer side of what is shown while data comes in.
LIVE_PIXELS = 512
Channel = None | str | tuple[str, Callable[[Array], Array]] | Extract
CHANNELS = (
    "a channel is the name of a result, a name and a function of its array, or a function of all results and the mask "
    "of processed positions"
)


def get_plottable_2D_channels(buffers: Mapping[str, Any]) -> list[str]:  # noqa: N802  (the name that users' programs call)
    """Return the names of results that are pictures: two axes longer than 1 and none of length 0, with numbers.

    Parameters
    ----------
    buffers
        Results or declared results by name; private ones are left out.

    Examples
    --------
    >>> from tilework.udf.com import CoMUDF
    >>> get_plottable_2D_channels(ctx.run_udf(dataset=ds, udf=CoMUDF()))
    ['field_y', 'field_x', 'regression', 'magnitude', 'divergence', 'curl']
    """
    return [
        name for name, buffer in buffers.items() if getattr(buffer, "use", None) != "private" and _is_picture(buffer)
    ]


def _is_picture(buffer: Any) -> bool:
    # The shape in the dataset decides: a flat buffer per scan position is a picture of the scan.
    data = buffer.data
    if data is None or 0 in data.shape:  # such as the frames of a ROI that selects none
        return False
    return sum(n > 1 for n in data.shape) == 2 and data.dtype.kind in "buifc"


class Live2DPlot(ABC):
    """A plot of one result that is updated while a run goes on.

    Parameters
    ----------
    dataset
        What is processed.
    udf
        Whose result is shown.
    roi
        Selected scan positions.
    channel
        Which result: a name; a name and a function of its array that gives what is shown; a function of all results and
        of the mask of processed positions that gives an array and a mask for it; None: the first that is a picture.
    title
        None: name of the UDF and of the channel, with that of the function, such as ``StdDevUDF: log1p(mean)``.
    min_delta
        Time in seconds that must pass before it is shown again.
    udfresult
        Results before any data; None: found out.

    Attributes
    ----------
    udf
        The UDF whose result is shown. It may be replaced between runs.
    channel
        The name of the result that is shown; None with a function of all results. Where no function was given, it may
        be replaced by another name.
    data
        The array that is shown, a `numpy.ma.MaskedArray`: masked where it is not there.
    title
        Its title.
    last_update
        When it was shown last, in seconds of `time.monotonic`.
    is_displayed
        Whether it is on the screen; where not, a run that is given the plot calls `display` when it begins.

    Raises
    ------
    ValueError
        When the result that is named is no picture, or there is none.
    TypeError
        When the channel is none of the above.
    """

    is_displayed = True  # a plot of your own that is to be displayed by runs says False until it is

    def __init__(
        self,
        dataset: DataSet,
        udf: UDF,
        roi: Any = None,
        channel: Channel = None,
        title: str | None = None,
        min_delta: float = 0,
        udfresult: Mapping[str, Any] | None = None,
    ) -> None:
        if udfresult is None:
            from tilework.udf.runner import UDFRunner

            udfresult = UDFRunner.dry_run([udf], dataset, roi).buffers[0]
        name, self.channel, self._extract = _resolve(channel, udfresult, type(udf).__name__)
        self.udf = udf
        self.title = f"{type(udf).__name__}: {name}" if title is None else title
        self.min_delta = min_delta
        self.last_update = 0.0
        nothing = np.zeros(tuple(dataset.shape.nav), dtype=bool)
        self.data = _masked(*self.extract(udfresult, nothing))

    def get_udf(self) -> UDF:
        """Return the UDF whose result is shown."""
        return self.udf

    def extract(self, udf_results: Mapping[str, Any], damage: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return what is shown of some results, and where it is there.

        Parameters
        ----------
        udf_results
            The results of the UDF by name.
        damage
            bool, shape of the scan: which positions are processed.
        """
        # Where no data is yet, there are zeros, of which functions may have no value; what is not finite is not shown.
        with np.errstate(divide="ignore", invalid="ignore"):
            if self._extract is not None:
                return self._extract(udf_results, damage)
            return _taking(str(self.channel), np.squeeze)(udf_results, damage)

    def is_due(self) -> bool:
        """Return whether `min_delta` has passed since it was shown last."""
        return time.monotonic() - self.last_update >= self.min_delta

    def new_data(self, udf_results: Mapping[str, Any], damage: NDArray[np.bool_], force: bool = False) -> None:
        """Take new results, and show them unless the last time was just now.

        Parameters
        ----------
        udf_results
            The results of the UDF by name.
        damage
            bool, shape of the scan: which positions are processed.
        force
            Show them in any case.
        """
        if not force and not self.is_due():
            return
        data, there = self.extract(udf_results, damage)
        self.data = _masked(data, there)
        self.update(~self.data.mask & np.isfinite(data), force=force)
        # The time that drawing takes must not add up to all the time there is.
        self.last_update = time.monotonic()

    @abstractmethod
    def update(self, damage: Array, force: bool = False) -> None:
        """Show `data`.

        Parameters
        ----------
        damage
            bool, shape of `data`: where it is there.
        force
            Whether this is the last time.
        """

    @abstractmethod
    def display(self) -> Any:
        """Bring the plot to the screen; what this returns, a notebook shows as well."""


class Dummy2DPlot(Live2DPlot):
    """Shows nothing: for programs that run without a screen."""

    def update(self, damage: Array, force: bool = False) -> None:
        """Do nothing."""

    def display(self) -> None:
        """Do nothing."""


class PicturePlot(Live2DPlot):
    """A live plot that shows values as colours, and of complex ones the magnitude.

    A function may also give the colours themselves, RGB or RGBA in the third axis, where a subclass shows them.

    Parameters
    ----------
    dataset, udf, roi, channel, title, min_delta, udfresult
        See `Live2DPlot`.

    Raises
    ------
    ValueError
        When what the channel gives is no picture.
    """

    is_displayed = False
    _shows_colors = False

    def __init__(
        self,
        dataset: Any,
        udf: Any,
        roi: Any = None,
        channel: Channel = None,
        title: str | None = None,
        min_delta: float = 0,
        udfresult: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset, udf, roi, channel, title, min_delta, udfresult)
        is_picture = self.data.ndim == 2 and self.data.dtype.kind in "buifc"
        if not self.data.size or not (is_picture or (self._shows_colors and self.is_colors)):
            msg = (
                f"{self.title} cannot be plotted: it has shape {self.data.shape} and dtype {self.data.dtype}, but a "
                "picture has two axes with pixels, and numbers"
            )
            raise ValueError(msg)
        if title is None and np.iscomplexobj(self.data):
            udf_name, _, name = self.title.partition(": ")
            self.title = f"{udf_name}: magnitude of {name}"

    @property
    def is_colors(self) -> bool:
        """Whether what is shown has the colours themselves in the third axis."""
        return self.data.ndim == 3 and self.data.shape[2] in {3, 4} and self.data.dtype.kind in "uif"

    def to_show(self, damage: Array, *, whole: bool) -> tuple[Array, Array]:
        """Return real values to show, and where they are there: all, or of every few pixels one, so that they fit."""
        every = 1 if whole else max(1, -(-max(self.data.shape) // LIVE_PIXELS))
        values = np.asarray(self.data)[::every, ::every]
        real = np.abs(values) if np.iscomplexobj(values) else values
        return within_limits(real), damage[::every, ::every]


def _resolve(channel: Channel, buffers: Mapping[str, Any], udf_name: str) -> tuple[str, str | None, Extract | None]:
    """Return what the channel is called, the name of its result, and its function, as far as it has them."""
    plottable = get_plottable_2D_channels(buffers)
    known = f"pictures are {', '.join(plottable)}" if plottable else "none of its results is a picture"
    if channel is None:
        if not plottable:
            msg = f"{udf_name} has nothing to plot: {known}; give a channel as (name, function) that makes one"
            raise ValueError(msg)
        channel = plottable[0]
    if isinstance(channel, str):
        if channel not in plottable:
            msg = f"{udf_name}: {channel!r} cannot be plotted: {known}"
            raise ValueError(msg)
        return channel, channel, None
    if isinstance(channel, type) or not (callable(channel) or is_pair(channel)):
        msg = f"{udf_name}: {channel!r} is no channel: {CHANNELS}"
        raise TypeError(msg)
    if isinstance(channel, tuple | list):
        name, function = channel
        if name not in buffers:
            msg = f"{udf_name} has no result {name!r}: it has {', '.join(buffers)}"
            raise ValueError(msg)
        return f"{_name_of(function)}({name})", name, _taking(name, function)
    return getattr(channel, "__name__", type(channel).__name__), None, _giving_two(channel)


def is_pair(channel: Any) -> bool:
    """Return whether a channel is the name of a result and a function of its array; a list of both is one, too."""
    is_two = isinstance(channel, tuple | list) and len(channel) == 2
    return is_two and isinstance(channel[0], str) and callable(channel[1])


def _masked(data: Array, there: Array) -> np.ma.MaskedArray[Any, Any]:
    return np.ma.MaskedArray(data, mask=~np.broadcast_to(there, data.shape))


def _name_of(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__name__", type(function).__name__)
    return "f" if name == "<lambda>" else name


def _giving_two(function: Extract) -> Extract:
    def extract(results: Any, damage: NDArray[np.bool_]) -> tuple[Array, Array]:
        given: Any = function(results, damage)
        if not isinstance(given, Sequence) or len(given) != 2:
            msg = f"the channel {_name_of(function)} returned {type(given).__name__}: return an array and its mask"
            raise TypeError(msg)
        array, mask = np.asanyarray(given[0]), np.asarray(given[1])
        if mask.dtype.kind not in "bui":
            msg = (
                f"the channel {_name_of(function)} returned {given[1]!r} as mask: return True where the array is there"
            )
            raise TypeError(msg)
        try:
            there = _spread(mask.astype(bool), array.shape)
        except ValueError:
            msg = (
                f"the channel {_name_of(function)} returned an array of shape {array.shape} and a mask of shape "
                f"{mask.shape}, which does not fit: return True where the array is there"
            )
            raise ValueError(msg) from None
        return without_mask(array, there)

    return extract


def _spread(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a mask in the shape of an array, whose first axes are those of the mask: others follow the positions."""
    if mask.shape == shape[: mask.ndim]:
        mask = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    return np.broadcast_to(mask, shape)


def _taking(name: str, function: Callable[[Array], Array]) -> Extract:
    def extract(results: Any, damage: NDArray[np.bool_]) -> tuple[Array, Array]:
        if name not in results:  # of a channel that was replaced
            msg = f"there is no result {name!r} to plot, but {', '.join(results)}"
            raise ValueError(msg)
        buffer = results[name]
        data = np.asanyarray(function(buffer.data))
        done = damage if buffer.kind == "nav" else np.asarray(damage.any())
        return without_mask(data, _where(done, data.shape) & _where(_valid_mask(buffer), data.shape))

    return extract


def _where(mask: Array, shape: tuple[int, ...]) -> Array:
    """Return a mask of a result in the shape of what was made of it.

    That may have no axes of length 1. Where it has another shape, nothing is known of it: it is there everywhere.
    """
    for known in (mask, np.squeeze(mask)):
        if known.shape == shape[: known.ndim]:
            return _spread(known, shape)
    return np.ones(shape, dtype=bool)


def _valid_mask(buffer: Any) -> Array:
    """Return where the UDF says that its result is valid, which is everywhere when nothing is known."""
    try:
        return np.asarray(buffer.valid_mask)
    except (AttributeError, RuntimeError):  # a declared result has none yet
        return np.asarray(True)


def notebook_display() -> Any:
    """Return `IPython.display` when this runs in a notebook, otherwise None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from importlib import import_module

    return import_module("IPython.display")
