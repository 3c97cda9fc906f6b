"""What an analysis gives: results with a title, each with its picture, which is drawn when it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilework.common.arrays import short_repr, without_mask
from tilework.common.html import html_picture, html_title
from tilework.common.viz import encode_image
from tilework.exceptions import MissingResultError, TileworkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from io import BytesIO
    from pathlib import Path

    from numpy.typing import DTypeLike

__all__ = ["AnalysisResult", "AnalysisResultSet"]

Array = np.ndarray[Any, np.dtype[Any]]

# In notebooks: the longer side of a picture on the screen, and the least of the other one; the most pixels of a side
# that are sent there; the most pictures of a set.
SHOWN_PIXELS = 256
LEAST_PIXELS = 16
SENT_PIXELS = 1024
SHOWN_RESULTS = 12


class AnalysisResult:
    """One result of an analysis.

    Parameters
    ----------
    raw_data
        The numbers: an array, or a tuple of arrays for the components (x, y) of a vector.
    visualized
        Its picture, uint8 RGB or RGBA of shape ``(*shape, 3 or 4)``; or a function without parameters that draws it,
        which is called when the picture is asked for, and once.
    title, desc
        For people: a few words, and a sentence.
    key
        Name within its `AnalysisResultSet`.
    include_in_download
        Whether a program that saves all results saves this one; not so where it only repeats others.

    Examples
    --------
    >>> result = ctx.run(ctx.create_sum_analysis(dataset=ds)).intensity
    >>> result.title, result.desc
    ('intensity [log]', 'sum of frames log-scaled')
    >>> np.asarray(result).shape, result.get_image().read()[1:4]
    ((32, 32), b'PNG')
    """

    def __init__(
        self,
        raw_data: Any,
        visualized: Array | Callable[[], Array],
        title: str,
        desc: str,
        key: str,
        include_in_download: bool = True,
    ) -> None:
        self.raw_data = raw_data
        self._visualized = visualized
        self.title = title
        self.desc = desc
        self.key = key
        self.include_in_download = include_in_download

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.key}>"

    def __str__(self) -> str:
        return f"title: {self.title}\ndesc: {self.desc}\nkey: {self.key}\nraw_data: {self._numbers()}"

    def _numbers(self) -> str:
        """Return what the numbers are, and their range where they have one."""
        arrays = self.raw_data if isinstance(self.raw_data, tuple) else (self.raw_data,)
        if all(isinstance(array, np.ndarray) and array.dtype.kind in "buif" for array in arrays):
            plain = (without_mask(array) for array in arrays)
            finite = np.concatenate([array[np.isfinite(array) & there] for array, there in plain])
            if finite.size:
                return f"{short_repr(self.raw_data)}, from {finite.min():g} to {finite.max():g}"
        return short_repr(self.raw_data)

    def _repr_html_(self) -> str | None:
        try:
            pixels = self._picture()
            if pixels.ndim != 3 or pixels.shape[2] not in {3, 4} or pixels.dtype != np.uint8 or not pixels.size:
                return None
            longer = max(pixels.shape[:2])
            every = -(-longer // SENT_PIXELS)
            png = encode_image(pixels[::every, ::every]).read()
        except TileworkError:  # what draws pictures is not installed
            return None
        height, width = (max(LEAST_PIXELS, round(n * SHOWN_PIXELS / longer)) for n in pixels.shape[:2])
        return html_picture(png, (width, height), (f"{self.key}: {self.title}", self.desc, self._numbers()))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        array = np.asarray(self.raw_data, dtype=dtype)
        return array.copy() if copy else array

    @property
    def visualized(self) -> Array:
        """The picture, uint8 RGB or RGBA; drawn now if it was not before."""
        if callable(self._visualized):
            self._visualized = self._visualized()
        return self._visualized

    def get_image(self, save_kwargs: Mapping[str, Any] | None = None) -> BytesIO:
        """Return the picture as an image file in memory.

        Parameters
        ----------
        save_kwargs
            What `PIL.Image.Image.save` is given; None: ``{"format": "png"}``.
        """
        return encode_image(self._picture(), save_kwargs)

    def _picture(self) -> Array:
        """Return the picture with two axes and colours, also that of a line of positions, which has one."""
        pixels = self.visualized
        return pixels[np.newaxis] if pixels.ndim == 2 and pixels.shape[1] in {3, 4} else pixels


class ResultSetWriter(Protocol):
    """Writes the results of an analysis to a file."""

    def __call__(self, results: Sequence[AnalysisResult], path: str | Path, *, overwrite: bool) -> Path:
        """Write them; see `AnalysisResultSet.save`."""
        ...


class AnalysisResultSet:
    """The results of an analysis: by name as attribute or key, by position, or one after the other.

    Parameters
    ----------
    results
        The results; or a function without parameters that makes them, called when the first one is asked for.
    raw_results
        What they are made from, where that is of use by itself; see the analysis.

    Examples
    --------
    >>> result = ctx.run(ctx.create_com_analysis(dataset=ds, mask_radius=8))
    >>> [r.key for r in result]
    ['field', 'magnitude', 'divergence', 'curl', 'x', 'y']
    >>> result.x is result["x"] is result[4]
    True
    >>> result.save("com.npz").name
    'com.npz'
    """

    # What knows the axes of the results and where they come from; whoever runs an analysis sets it.
    _writer: ResultSetWriter | None = None

    def __init__(
        self, results: Sequence[AnalysisResult] | Callable[[], Sequence[AnalysisResult]], raw_results: Any = None
    ) -> None:
        self._results = results
        self.raw_results = raw_results

    @property
    def results(self) -> Sequence[AnalysisResult]:
        """All results, in order."""
        if callable(self._results):
            self._results = self._results()
        return self._results

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {', '.join(self.keys())}>"

    def _repr_html_(self) -> str | None:
        shown = [result._repr_html_() for result in self.results[:SHOWN_RESULTS]]
        if None in shown:
            return None
        more = len(self) - len(shown)
        return "".join([*map(str, shown), html_title(f"and {more} more") if more else ""])

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the results, with where they come from, to a file; the suffix decides: .npz, .h5, .zarr or .tif.

        Written are the numbers (`AnalysisResult.raw_data`), not the pictures, with titles and descriptions, of all
        results whose ``include_in_download`` is True. The components of a vector are the last axis.

        Parameters
        ----------
        path
            File (for .zarr: folder) to write; `tilework.io.results.load_results` reads it.
        overwrite
            Whether to replace what is there.

        Returns
        -------
        pathlib.Path
            What was written.

        Raises
        ------
        ResultFileError
            When it cannot be written; nothing half-written is left.
        ValueError
            When no run made the results, so that nobody knows where they come from.
        """
        if self._writer is None:
            msg = (
                "these results were not made by Context.run, so it is not known where they come from: save their "
                "raw_data, for example with numpy.savez"
            )
            raise ValueError(msg)
        return self._writer(self.results, path, overwrite=overwrite)

    def keys(self) -> list[str]:
        """Return the names of the results."""
        return [result.key for result in self.results]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[AnalysisResult]:
        return iter(self.results)

    def __getitem__(self, key: int | str) -> AnalysisResult:
        if not isinstance(key, str):
            return self.results[key]
        for result in self.results:
            if result.key == key:
                return result
        msg = f"there is no result {key!r}: there are {', '.join(self.keys())}"
        raise MissingResultError(msg)

    def __getattr__(self, name: str) -> AnalysisResult:
        # Underscores are not results: copying and unpickling ask for such names before there are any.
        if not name.startswith("_"):
            return self[name]
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.keys()]
