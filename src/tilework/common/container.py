"""Stacks of masks: made by the user's factories on first need, cut to parts of the detector, converted and kept.

A `MaskContainer` may be used from several threads. It travels as its factories only: what they made is made again where
it arrives.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np

from tilework.common.array_backends import BACKENDS, CUPY_BACKENDS
from tilework.common.arrays import short_repr
from tilework.common.cache import Cache
from tilework.common.slice import Slice
from tilework.common.sparse import is_scipy_sparse, is_sparse, sparse_to_coo, to_dense

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["MaskContainer", "MaskFactories", "warn_if_large"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
MaskFactories = Callable[[], Any] | Sequence[Callable[[], Any]]
SparseFormat = Literal["scipy.sparse", "scipy.sparse.csr", "scipy.sparse.csc", "sparse.pydata", "sparse.pydata.GCXS"]
SPARSE_FORMATS: tuple[SparseFormat, ...] = get_args(SparseFormat)
# A factory is sent to every worker, so it should make its masks there and not bring them along.
_LARGE_FACTORY = 2**20


class MaskContainer:
    """A stack of masks for linear functions of frames.

    Parameters
    ----------
    mask_factories
        A function that returns all masks as a stack, first axis mask; or a sequence of functions that return one mask
        each, which may be a stack of one where `sig_shape` is known. Masks are dense arrays, or sparse ones of SciPy or
        pydata sparse.
    dtype
        dtype of the masks; None: what the factories give.
    use_sparse
        True for sparse masks in the default format, False for dense ones, or the name of a sparse format:
        ``"scipy.sparse"`` (the same as ``"scipy.sparse.csr"``), ``"scipy.sparse.csc"``, ``"sparse.pydata"`` or
        ``"sparse.pydata.GCXS"``. None: sparse when all factories give sparse masks.
    count
        Number of masks; saves making them when somebody asks for it.
    backend
        Array backend of the tiles that what `get` returns by default is for: with one of CuPy's, masks come in the
        memory of the GPU; with all others, in main memory. None: ``"numpy"``.
    default_sparse
        The format for sparse masks when `use_sparse` names none.
    sig_shape
        Shape of a frame, which masks must have; looked at when they are made. None: they may have any.

    Raises
    ------
    ValueError
        When `use_sparse`, `default_sparse` or `backend` is none of these, or asks for arrays of pydata sparse on a GPU.
    TypeError
        When `mask_factories` is neither a function nor a list or tuple of functions.

    Examples
    --------
    >>> masks = MaskContainer([lambda: np.ones((4, 4)), lambda: np.eye(4)], dtype="float32")
    >>> len(masks), masks.dtype
    (2, dtype('float32'))
    """

    def __init__(
        self,
        mask_factories: MaskFactories,
        dtype: DTypeLike | None = None,
        use_sparse: bool | SparseFormat | None = None,
        count: int | None = None,
        backend: str | None = None,
        default_sparse: SparseFormat = "scipy.sparse",
        sig_shape: Sequence[int] | None = None,
    ) -> None:
        self.mask_factories = mask_factories
        self._dtype = None if dtype is None else np.dtype(dtype).newbyteorder("=")
        self._default_sparse = _checked_format(default_sparse, "default_sparse")
        self._use_sparse: bool | str | None = use_sparse
        if use_sparse is True:
            self._use_sparse = self._default_sparse
        elif use_sparse is not None and use_sparse is not False:
            self._use_sparse = _checked_format(use_sparse, "use_sparse")
        self._count = count
        self._backend = _checked_backend(backend)
        self._sig_shape = None if sig_shape is None else tuple(sig_shape)
        self._lock = threading.RLock()
        self._stack: _Stack | None = None
        self._kept = Cache()
        _check_factories(mask_factories)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_lock"]
        state["_stack"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def __len__(self) -> int:
        if self._count is not None:
            return self._count
        if not callable(self.mask_factories):
            return len(self.mask_factories)
        return int(self._computed().flat.shape[0])

    # -- properties

    @property
    def computed_masks(self) -> Any:
        """All masks, of shape ``(n_masks, *sig)``: a NumPy array, or a ``sparse.COO`` when the masks are sparse."""
        stack = self._computed()
        shape = (stack.flat.shape[0], *stack.sig)
        return sparse_to_coo(stack.flat, shape) if stack.is_sparse else stack.flat.reshape(shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the masks."""
        return np.dtype(self._computed().flat.dtype) if self._dtype is None else self._dtype

    @property
    def use_sparse(self) -> str | Literal[False]:
        """The sparse format in which masks are returned by default, or False for dense ones."""
        if self._use_sparse is None:
            if self._backend in CUPY_BACKENDS and self._default_sparse.startswith("sparse.pydata"):
                return False  # there are none on a GPU
            return self._default_sparse if self._computed().is_sparse else False
        return self._use_sparse  # type: ignore[return-value]

    # -- masks for a part of the detector

    def get(
        self,
        key: Any,
        dtype: DTypeLike | None = None,
        sparse_backend: SparseFormat | None = None,
        transpose: bool = True,
        backend: str | None = None,
    ) -> Any:
        """Return the masks for a part of the detector, flattened.

        Results are kept, and must not be changed.

        Parameters
        ----------
        key
            The part; its navigation axes are ignored.
        dtype
            dtype of the result; None: that of the masks.
        sparse_backend
            Sparse format of the result, one of those of `use_sparse`; None: as `use_sparse` says.
        transpose
            True for the shape ``(n_pixels, n_masks)``, False for ``(n_masks, n_pixels)``.
        backend
            Array backend of the tiles that the masks are for; None: that of the container.

        Raises
        ------
        TypeError
            When `key` is not a `Slice`.
        ValueError
            When the sparse format or backend is unknown, there is no such format on a GPU, or the part does not fit the
            masks.
        """
        if not isinstance(key, Slice):
            msg = f"MaskContainer.get takes the part of the detector as a Slice, not {type(key).__name__}"
            raise TypeError(msg)
        return self.get_for_sig_slice(key.sig, dtype, sparse_backend, transpose, backend)

    def get_for_idx(self, scheme: Any, idx: int, *args: Any, **kwargs: Any) -> Any:
        """Return the masks for the sig slice `idx` of a tiling scheme; other arguments as of `get`."""
        return self.get_for_sig_slice(scheme[idx], *args, **kwargs)

    def get_masks_for_slice(self, slice_: Slice, *args: Any, **kwargs: Any) -> Any:
        """Return the masks for a part of the detector; the same as `get`."""
        return self.get(slice_, *args, **kwargs)

    def get_for_sig_slice(
        self,
        sig_slice: Slice,
        dtype: DTypeLike | None = None,
        sparse_backend: SparseFormat | None = None,
        transpose: bool = True,
        backend: str | None = None,
    ) -> Any:
        """Return the masks for a part of the detector that has no navigation axes.

        Parameters are those of `get`.
        """
        on_gpu = _checked_backend(backend or self._backend) in CUPY_BACKENDS
        kind = self.use_sparse if sparse_backend is None else _checked_format(sparse_backend, "sparse_backend")
        target = self.dtype if dtype is None else np.dtype(dtype).newbyteorder("=")
        place = (tuple(sig_slice.origin), tuple(sig_slice.shape))

        def make() -> Any:
            masks = self._cut(sig_slice, target, kind, transpose)
            return _to_gpu(masks, kind) if on_gpu else masks

        return self.kept((place, target, kind, transpose, on_gpu), make)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` made of the masks when it was asked for under this key for the first time."""
        return self._kept.get(key, make)

    def _cut(self, part: Slice, dtype: np.dtype[Any], kind: str | Literal[False], transpose: bool) -> Any:
        stack = self._computed()
        flat = stack.cut(part)
        if kind is False:
            dense = to_dense(flat).astype(dtype, copy=False)
            return np.ascontiguousarray(dense.T if transpose else dense)
        from scipy import sparse

        flat = flat.astype(_stored_as(dtype), copy=False)
        matrix = sparse.csr_matrix(flat.T if transpose else flat)
        if kind == "scipy.sparse.csc":
            return matrix.tocsc()
        if kind.startswith("sparse.pydata"):
            coo = sparse_to_coo(matrix)
            return coo.asformat("gcxs") if kind == "sparse.pydata.GCXS" else coo
        return matrix

    def _computed(self) -> _Stack:
        with self._lock:
            if self._stack is None:
                self._stack = self._compute()
            return self._stack

    def _compute(self) -> _Stack:
        factories = self.mask_factories
        made = factories() if callable(factories) else [factory() for factory in factories]
        if isinstance(made, list | tuple):
            stack = _Stack.of_single(made).without_first_axis(self._sig_shape)
        else:
            stack = _Stack.of(made)
        self._check_shape(stack)
        if self._use_sparse is False:
            stack = _Stack(to_dense(stack.flat), stack.sig)
        count = stack.flat.shape[0]
        if self._count is not None and count != self._count:
            msg = f"the mask factory returned {count} masks, but the mask count was given as {self._count}"
            raise ValueError(msg)
        if self._dtype is None:
            return stack
        dtype = _stored_as(self._dtype) if stack.is_sparse else self._dtype
        return _Stack(stack.flat.astype(dtype, copy=False), stack.sig)

    def _check_shape(self, stack: _Stack) -> None:
        frame = self._sig_shape
        if frame is None or stack.sig == frame:
            return
        if callable(self.mask_factories) and (stack.flat.shape[0], *stack.sig) == frame:
            msg = (
                f"the mask factory returned one mask of shape {frame}, but one function must return a stack of masks, "
                f"of shape (n, {', '.join(map(str, frame))}): for one mask, pass a list with the function, [function]"
            )
            raise ValueError(msg)
        msg = (
            f"masks of shape {stack.sig} do not fit a detector of shape {frame}: a mask must have the shape of a frame"
        )
        raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Masks of shape `sig`, flattened: a NumPy array or a SciPy matrix in CSR format of shape (n_masks, n_pixels)."""

    flat: Any
    sig: tuple[int, ...]

    @classmethod
    def of(cls, masks: Any) -> _Stack:
        """Return a stack, first axis mask, in our form."""
        masks = _as_masks(masks)
        if is_scipy_sparse(masks):
            return cls(_to_csr(masks), (int(masks.shape[1]),))
        if masks.ndim < 2:
            msg = f"a stack of masks has at least two axes, this has the shape {tuple(masks.shape)}"
            raise ValueError(msg)
        sig = tuple(int(s) for s in masks.shape[1:])
        flat = masks.reshape((masks.shape[0], math.prod(sig)))
        return cls(_to_csr(flat) if is_sparse(flat) else flat, sig)

    @classmethod
    def of_single(cls, masks: Sequence[Any]) -> _Stack:
        """Return single masks as a stack; sparse when all of them are."""
        masks = [_as_masks(m) for m in masks]
        shapes = {tuple(int(s) for s in m.shape) for m in masks}
        if len(shapes) != 1:
            have = ", ".join(map(str, sorted(shapes))) or "there is none"
            msg = f"masks must all have the same shape, that of a frame: {have}"
            raise ValueError(msg)
        sig = shapes.pop()
        row = (1, math.prod(sig))
        if not all(is_sparse(m) for m in masks):
            return cls(np.stack([to_dense(m).reshape(-1) for m in masks]), sig)
        from scipy import sparse

        return cls(_to_csr(sparse.vstack([_to_csr(m.reshape(row)) for m in masks])), sig)

    def without_first_axis(self, frame: tuple[int, ...] | None) -> _Stack:
        """Return masks of the shape of a frame, where they are stacks of a single mask or matrices of a single row."""
        return _Stack(self.flat, self.sig[1:]) if frame is not None and self.sig == (1, *frame) else self

    @property
    def is_sparse(self) -> bool:
        """Whether the masks are sparse."""
        return not isinstance(self.flat, np.ndarray)

    def cut(self, part: Slice) -> Any:
        """Return the masks for a part of the detector, flattened."""
        ends = [o + s for o, s in zip(part.origin, part.shape, strict=True)]
        if len(ends) != len(self.sig) or any(e > s for e, s in zip(ends, self.sig, strict=True)):
            msg = f"masks of shape {self.sig} do not fit {part} of the detector: a mask must have the shape of a frame"
            raise ValueError(msg)
        if tuple(part.shape) == self.sig:
            return self.flat
        # Whole rows of the detector are a stretch of the flat axis, which is cut in no time. To pick columns of a
        # sparse matrix one by one takes time for all that there are.
        row = math.prod(self.sig[1:])
        stretch = self.flat[:, part.origin[0] * row : ends[0] * row]
        if tuple(part.shape[1:]) == self.sig[1:]:
            return stretch
        rows = (part.shape[0], *self.sig[1:])
        places = np.arange(math.prod(rows)).reshape(rows)[:, *part.get()[1:]].reshape(-1)
        return stretch[:, places]


def _as_masks(made: Any) -> Any:
    """Return what a factory made as an array whose numbers other libraries take: in native byte order."""
    if is_scipy_sparse(made):
        return made
    if not is_sparse(made) or made.fill_value:  # nothing is left out where the background counts
        dense = to_dense(made)
        return dense.astype(dense.dtype.newbyteorder("="), copy=False)
    dtype = _stored_as(made.dtype)
    return made if made.dtype == dtype else made.astype(dtype)


def _stored_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of sparse masks: SciPy has none of half precision."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _to_csr(matrix: Any) -> Any:
    if not is_scipy_sparse(matrix):
        matrix = sparse_to_coo(matrix).to_scipy_sparse()
    from scipy import sparse

    return sparse.csr_matrix(matrix)


def _checked_format(name: Any, argument: str) -> str:
    if name not in SPARSE_FORMATS:
        msg = f"{argument} must be True, False, None or one of {', '.join(SPARSE_FORMATS)}; it is {name!r}"
        raise ValueError(msg)
    return str(name)


def _checked_backend(backend: str | None) -> str:
    if backend is not None and backend not in BACKENDS:
        msg = f"masks can be had for tiles of the array backends {', '.join(sorted(BACKENDS))}, not for {backend!r}"
        raise ValueError(msg)
    return backend or "numpy"


def _to_gpu(masks: Any, kind: str | Literal[False]) -> Any:
    if kind is not False and kind.startswith("sparse.pydata"):
        msg = f"there are no sparse masks of the format {kind!r} on a GPU: use one of the formats 'scipy.sparse'"
        raise ValueError(msg)
    if kind is False:
        import cupy

        return cupy.asarray(masks)
    import cupyx.scipy.sparse

    form = cupyx.scipy.sparse.csc_matrix if kind == "scipy.sparse.csc" else cupyx.scipy.sparse.csr_matrix
    return form(masks)


def _check_factories(factories: Any) -> None:
    several = [factories] if callable(factories) else factories
    if not isinstance(several, list | tuple) or not several or not all(map(callable, several)):
        msg = (
            "mask_factories must be a function that returns a stack of masks, or a list of functions that return one "
            f"mask each, such as [lambda: mask]; it is {short_repr(factories)}"
        )
        raise TypeError(msg)


def warn_if_large(factories: MaskFactories) -> None:
    """Log a warning when mask factories hold large arrays; for who is about to send them to workers."""
    size = sum(map(_carried_bytes, [factories] if callable(factories) else factories))
    if size > _LARGE_FACTORY:
        logger.warning(
            "mask factories carry %.1f MiB of arrays that are sent to every worker: let them make the masks instead, "
            "or load them from a file",
            size / 2**20,
        )


def _carried_bytes(function: Any) -> int:
    """Return the size of the arrays that a function holds: in its closure, its defaults, or bound to it."""
    held: list[Any] = []
    while isinstance(function, functools.partial):
        held += [*function.args, *function.keywords.values()]
        function = function.func
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a variable that is not assigned yet
            continue
    held += getattr(function, "__defaults__", None) or ()
    held += list((getattr(function, "__kwdefaults__", None) or {}).values())
    return sum(int(getattr(h, "nbytes", 0)) for h in held if isinstance(h, np.ndarray) or is_sparse(h))
