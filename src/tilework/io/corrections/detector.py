"""Corrections for the detector, frame by frame: ``(frame - dark) * gain``, then excluded pixels are repaired.

That order, and what the two images mean, is the usual flat field correction; see for example "EMVA Standard 1288,
Standard for Characterization of Image Sensors and Cameras", release 4.0 (2021), on offset and photo-response
non-uniformity.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.parallel import run_parts
from tilework.common.kernels.picked_frames import PickedFrames, in_memory
from tilework.common.kernels.rows import as_rows, takes_dtype
from tilework.common.sparse import is_sparse, to_dense, to_sparse
from tilework.exceptions import CorrectError
from tilework.io.corrections.repair import RepairDescriptor, repair

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = [
    "RepairDescriptor",
    "as_numbers",
    "common_shape",
    "correct",
    "correct_dot_masks",
    "correct_frames",
    "corrected_dtype",
    "corrects_in_one_pass",
]

Array = np.ndarray[Any, np.dtype[Any]]

_correct_rows = Kernel("tilework.io.corrections.detector_numba", "correct_rows")
_correct_swapped_rows = Kernel("tilework.io.corrections.detector_numba", "correct_swapped_rows")
# Words that the compiled kernel swaps at a time, into memory that stays in the L1 cache.
_SWAPPED = 2048


def corrected_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which frames of `dtype` are corrected: what float32 and it are promoted to."""
    return np.result_type(np.float32, dtype)


def correct(
    buffer: Any,
    dark_image: Any = None,
    gain_map: Any = None,
    excluded_pixels: Any = None,
    repair_descriptor: RepairDescriptor | None = None,
    inplace: bool = False,
    sig_shape: Sequence[int] | None = None,
    allow_empty: bool = False,
) -> Array:
    """Return frames corrected for dark frame, gain and excluded pixels.

    Parameters
    ----------
    buffer
        Frames, of shape ``(..., *sig)``; any numbers.
    dark_image
        What the detector shows without a beam, of shape ``sig``, in the units of the data; it is subtracted. None: 0.
    gain_map
        Factor for each pixel, of shape ``sig``, applied after the subtraction. None: 1.
    excluded_pixels
        Pixels to be replaced by the mean of their neighbours, after both: a bool or sparse map of shape ``sig``, or
        coordinates of shape ``(sig_dims, n)``, as `numpy.nonzero` returns them.
    repair_descriptor
        The same, prepared once for many calls.
    inplace
        True: correct `buffer` itself, which must be C-contiguous and hold floats or complex numbers.
    sig_shape
        Shape of a frame; needed when neither a dark image nor a gain map is given.
    allow_empty
        True: an excluded pixel without usable neighbours stays as it is.

    Returns
    -------
    numpy.ndarray
        Of the shape of `buffer`; in its dtype when that is a float or complex, else in what float32 and its dtype are
        promoted to.

    Raises
    ------
    TypeError
        When integers are to be corrected in place, or dark image or gain map are no numbers.
    CorrectError
        When a buffer that is not contiguous is to be corrected in place.
    RepairValueError
        When an excluded pixel has no usable neighbour.
    ValueError
        When the shapes do not fit, both `excluded_pixels` and `repair_descriptor` are given, or a dark image or gain
        map is complex and the frames are real.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.full((2, 3, 3), 10, dtype=np.uint16)
    >>> frames[:, 1, 1] = 999
    >>> dead = np.zeros((3, 3), dtype=bool)
    >>> dead[1, 1] = True
    >>> correct(frames, dark_image=np.full((3, 3), 2), gain_map=np.full((3, 3), 0.5), excluded_pixels=dead)[0]
    array([[4., 4., 4.],
           [4., 4., 4.],
           [4., 4., 4.]], dtype=float32)
    """
    buffer = np.asarray(buffer)
    dark_image = None if dark_image is None else as_numbers("dark_image", dark_image)
    gain_map = None if gain_map is None else as_numbers("gain_map", gain_map)
    sig = _find_sig_shape(dark_image, gain_map, sig_shape)
    if repair_descriptor is not None and excluded_pixels is not None:
        msg = "excluded_pixels and repair_descriptor say the same thing: give one of them"
        raise ValueError(msg)
    if buffer.shape[buffer.ndim - len(sig) :] != sig or buffer.ndim < len(sig):
        msg = f"corrections for a detector of shape {sig} do not fit frames of shape {buffer.shape}"
        raise ValueError(msg)
    if inplace and buffer.dtype.kind not in "fc":
        msg = f"only floats and complex numbers can be corrected in place, these are {buffer.dtype}: use inplace=False"
        raise TypeError(msg)
    if inplace and not buffer.flags.c_contiguous:
        msg = "a buffer that is corrected in place must be C-contiguous: use inplace=False, or numpy.ascontiguousarray"
        raise CorrectError(msg)
    if repair_descriptor is None:
        repair_descriptor = RepairDescriptor(sig, excluded_pixels, allow_empty)
    dtype = buffer.dtype if inplace else corrected_dtype(buffer.dtype)
    out = buffer if inplace else np.empty(buffer.shape, dtype=dtype)
    shape = (math.prod(buffer.shape[: buffer.ndim - len(sig)]), math.prod(sig))
    dark, gain = (None if a is None else as_flat(a, dtype) for a in (dark_image, gain_map))
    correct_frames(buffer.reshape(shape), dark, gain, repair_descriptor, out.reshape(shape))
    return out


def _find_sig_shape(dark_image: Any, gain_map: Any, sig_shape: Sequence[int] | None) -> tuple[int, ...]:
    shape = common_shape(
        sig_shape=sig_shape,
        dark_image=None if dark_image is None else dark_image.shape,
        gain_map=None if gain_map is None else gain_map.shape,
    )
    if shape is None:
        msg = "the shape of the detector is not known: give dark_image, gain_map or sig_shape"
        raise ValueError(msg)
    return shape


def common_shape(**shapes: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the shape that all have, by name, for which it is not None; None when there is none.

    Raises
    ------
    ValueError
        When they differ, or are those of single numbers.
    """
    known = {name: tuple(int(s) for s in shape) for name, shape in shapes.items() if shape is not None}
    if len(set(known.values())) > 1:
        msg = f"the shapes of the corrections differ: {', '.join(f'{k} {v}' for k, v in known.items())}"
        raise ValueError(msg)
    sig = next(iter(known.values()), None)
    if sig == ():
        msg = f"{next(iter(known))} must have the shape of a frame, not be a single number: see numpy.full"
        raise ValueError(msg)
    return sig


def as_numbers(name: str, image: Any) -> Array:
    """Return an image of the detector, dense or sparse, as a dense array; real where no part is imaginary.

    Raises
    ------
    TypeError
        When it holds no numbers.
    """
    dense = to_dense(image)
    if dense.dtype.kind not in "biufc":
        what = {"U": "text", "S": "text", "O": "Python objects"}.get(dense.dtype.kind, f"{dense.dtype}")
        way = {"U": "; load a file with numpy.load first", "O": "; convert them with .astype(float)"}
        msg = f"{name} must be an array of numbers of the shape of a frame, this holds {what}"
        raise TypeError(msg + way.get(dense.dtype.kind, ""))
    return dense.real if dense.dtype.kind == "c" and not dense.imag.any() else dense


def as_flat(image: Any, dtype: np.dtype[Any]) -> Array:
    """Return an image of the detector as contiguous row of `dtype`.

    Raises
    ------
    ValueError
        When it is complex and `dtype` is not: real frames cannot hold what would come out.
    """
    if dtype.kind != "c" and np.iscomplexobj(image):
        msg = "a complex dark frame or gain map does not fit real frames: give its real part, or complex frames"
        raise ValueError(msg)
    return np.ascontiguousarray(to_dense(image), dtype=dtype).reshape(-1)


def correct_frames(
    frames: Array | PickedFrames,
    dark: Array | None,
    gain: Array | None,
    descriptor: RepairDescriptor,
    out: Array,
    *,
    compiled: bool = False,
    threads: int = 1,
) -> None:
    """Write corrected frames to `out`. The bits are the same compiled or not, and for any number of threads.

    Parameters
    ----------
    frames
        Of shape ``(n, ...)``, any dtype and byte order; picked ones are read where they lie. May be `out` itself.
    dark, gain
        Of shape ``(pixels,)`` and the dtype of `out`, or None.
    descriptor
        Excluded pixels.
    out
        Floats or complex, of shape ``(n, pixels)``, C-contiguous.
    compiled
        Whether compiled kernels may be used; they are for real floats.
    threads
        The most threads to use, when compiled.
    """
    if not out.size:
        return
    if dark is None and gain is None:
        if frames is not out:
            np.copyto(out, in_memory(frames).reshape(out.shape), casting="unsafe")
    elif compiled and corrects_in_one_pass(frames.dtype, out.dtype):

        def part(start: int, stop: int) -> None:
            _correct_compiled(frames[start:stop], dark, gain, out[start:stop])

        run_parts(part, len(out), threads, 4, work=out.nbytes)
    else:
        rows = in_memory(frames).reshape(out.shape)
        computed = out.dtype.newbyteorder("=")  # NumPy computes in the machine's byte order, and writes in any
        with np.errstate(invalid="ignore", over="ignore"):
            if dark is not None:
                rows = np.subtract(rows, dark, out=out, dtype=computed, casting="unsafe")
            if gain is not None:
                np.multiply(rows, gain, out=out, dtype=computed, casting="unsafe")
    repair(out, descriptor, compiled=compiled)


def corrects_in_one_pass(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether there is a kernel for corrections, which then also takes picked frames where they lie."""
    native = source.newbyteorder("=")
    return target.str[1:] in {"f4", "f8"} and target.isnative and takes_dtype(native) and native.kind != "c"


def _correct_compiled(frames: Array | PickedFrames, dark: Array | None, gain: Array | None, out: Array) -> None:
    dark, gain = (np.empty(0, dtype=out.dtype) if a is None else a for a in (dark, gain))
    kernel = _correct_rows
    swapped: tuple[Array, ...] = ()
    if not frames.dtype.isnative:
        # Byte order is looked after by the kernel: to what lays out the rows, these are numbers of this machine.
        words = np.empty(_SWAPPED, dtype=f"u{frames.dtype.itemsize}")
        kernel, swapped = _correct_swapped_rows, (words, words.view(frames.dtype.newbyteorder("=")))
        frames = frames.view(words.dtype)

    rows = as_rows(frames)
    kernel(rows.flat, rows.places, *swapped, dark, gain, out)


def correct_dot_masks(masks: Any, gain_map: Any, excluded_pixels: Any = None, allow_empty: bool = False) -> Any:
    """Return masks that, applied to raw frames, give what `masks` give for corrected ones.

    Gain and repair are linear, so they can be moved from every frame into the masks, once. A dark frame is no part of
    it: subtract its products with the returned masks from the results.

    Parameters
    ----------
    masks
        Of shape ``(..., *sig)``, dense or sparse.
    gain_map
        Factor for each pixel, of shape ``sig``; None: 1.
    excluded_pixels
        A bool or sparse map of shape ``sig``, or coordinates of shape ``(sig_dims, n)`` together with a gain map.
    allow_empty
        True: an excluded pixel without usable neighbours stays as it is.

    Returns
    -------
    numpy.ndarray or sparse.COO
        Sparse when `masks` are; in what the dtypes of masks and gain map are promoted to, at least float32.

    Raises
    ------
    ValueError
        When the shape of the detector is not known, or does not fit the masks.
    RepairValueError
        When an excluded pixel has no usable neighbour.
    """
    if gain_map is not None:
        sig = tuple(int(s) for s in np.shape(gain_map))
    elif is_sparse(excluded_pixels):
        sig = tuple(int(s) for s in excluded_pixels.shape)
    elif (excluded_map := np.asarray(excluded_pixels)).dtype == np.bool_:
        sig = excluded_map.shape
    else:
        msg = "the shape of the detector is not known: give a gain map, or excluded pixels as a map"
        raise ValueError(msg)
    dense = to_dense(masks)
    if dense.shape[dense.ndim - len(sig) :] != sig or dense.ndim < len(sig):
        msg = f"corrections for a detector of shape {sig} do not fit masks of shape {dense.shape}"
        raise ValueError(msg)
    gain = None if gain_map is None else np.array(to_dense(gain_map)).reshape(-1)
    dtype = np.result_type(dense.dtype, np.float32 if gain is None else gain.dtype, np.float32)
    result = dense.astype(dtype).reshape(-1, math.prod(sig))
    descriptor = RepairDescriptor(sig, excluded_pixels, allow_empty)
    for excluded, neighbours, count in zip(
        descriptor.exclude_flat, descriptor.repair_flat, descriptor.repair_counts, strict=True
    ):
        # A repaired pixel shows its neighbours, so these get its share of the mask.
        result[:, neighbours[:count]] += dense.reshape(result.shape)[:, [excluded]].astype(dtype) / count
    result[:, descriptor.exclude_flat] = 0
    if gain is not None:
        gain[descriptor.exclude_flat] = 0  # often NaN or infinite there, and 0 times these is NaN
        result = (result * gain).astype(dtype, copy=False)
    corrected = result.reshape(dense.shape)
    return to_sparse(corrected) if is_sparse(masks) else corrected
