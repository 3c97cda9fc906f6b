"""Stacks of masks: from any kind of factory, cut to any part, in any format; lazy, kept, and light to send."""

from __future__ import annotations

import functools
import logging
import operator
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import sparse
from hypothesis import given
from hypothesis import strategies as st

from tilework.common.container import SPARSE_FORMATS, MaskContainer, warn_if_large
from tilework.common.shape import Shape
from tilework.common.slice import Slice
from tilework.common.sparse import is_sparse, to_dense
from tilework.utils.devices import has_cupy

SIG = (6, 7)


def stack(count: int = 3, dtype: Any = "f4") -> Any:
    rng = np.random.default_rng(0)
    return np.where(rng.random((count, *SIG)) < 0.4, rng.normal(size=(count, *SIG)), 0).astype(dtype)


def one(i: int) -> Any:
    return stack()[i]


FACTORIES: dict[str, Any] = {
    "stack": stack,
    "list": [functools.partial(one, i) for i in range(3)],
    "scipy": [lambda i=i: sp.csr_matrix(one(i)) for i in range(3)],
    "coo": [lambda i=i: sparse.COO.from_numpy(one(i)) for i in range(3)],
    "coo stack": lambda: sparse.COO.from_numpy(stack()),
    "gcxs stack": lambda: sparse.GCXS.from_numpy(stack()),
    "mixed": [lambda: one(0), lambda: sp.csc_matrix(one(1)), lambda: sparse.COO.from_numpy(one(2))],
}
SPARSE = {"scipy", "coo", "coo stack", "gcxs stack"}


def part(origin: tuple[int, int] = (0, 0), shape: tuple[int, int] = SIG) -> Slice:
    return Slice(origin=(0, *origin), shape=Shape((5, *shape), sig_dims=2))


@pytest.mark.parametrize("use_sparse", [None, True, False, *SPARSE_FORMATS])
@pytest.mark.parametrize("kind", FACTORIES)
def test_every_kind_of_factory_gives_the_same_masks(kind: str, use_sparse: Any) -> None:
    container = MaskContainer(FACTORIES[kind], use_sparse=use_sparse)
    flat = stack().reshape(3, -1)
    assert len(container) == 3
    assert container.dtype == np.float32
    expected = ("scipy.sparse" if kind in SPARSE else False) if use_sparse is None else use_sparse
    assert container.use_sparse == ("scipy.sparse" if expected is True else expected)
    for transpose in (True, False):
        masks = container.get(part(), transpose=transpose)
        assert is_sparse(masks) == bool(expected)
        np.testing.assert_array_equal(to_dense(masks), flat.T if transpose else flat)
    np.testing.assert_array_equal(to_dense(container.computed_masks), stack())


@pytest.mark.parametrize("form", [np.asarray, sparse.COO.from_numpy, sparse.GCXS.from_numpy])
def test_listed_masks_may_be_stacks_of_one(form: Any) -> None:
    """What makes stacks, such as ``radial_bins(..., n_bins=1)``, may stand in a list."""
    factories = [functools.partial(lambda i: form(one(i)[np.newaxis]), i) for i in range(3)]
    container = MaskContainer(factories, sig_shape=SIG)
    assert container.computed_masks.shape == (3, *SIG)
    np.testing.assert_array_equal(to_dense(container.get(part(), transpose=False)), stack().reshape(3, -1))


def test_sparse_matrices_may_be_masks_of_one_axis() -> None:
    """SciPy has no arrays of one axis in its older formats."""
    row = np.arange(5.0)
    container = MaskContainer([lambda: sp.csr_matrix(row)], sig_shape=(5,))
    np.testing.assert_array_equal(to_dense(container.computed_masks), [row])


@given(
    kind=st.sampled_from(sorted(FACTORIES)),
    rows=st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted),
    columns=st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted),
    sparse_backend=st.sampled_from([None, *SPARSE_FORMATS]),
    dtype=st.sampled_from([None, "f8", "c8"]),
)
def test_any_part_in_any_format(kind: str, rows: Any, columns: Any, sparse_backend: Any, dtype: Any) -> None:
    container = MaskContainer(FACTORIES[kind])
    place = part((rows[0], columns[0]), (rows[1] - rows[0], columns[1] - columns[0]))
    masks = container.get(place, dtype=dtype, sparse_backend=sparse_backend)
    expected = stack()[:, rows[0] : rows[1], columns[0] : columns[1]].reshape(3, -1).T
    assert masks.dtype == (dtype or np.float32)
    assert masks.shape == expected.shape
    np.testing.assert_array_equal(to_dense(masks), expected)
    formats = {"scipy.sparse": "csr", "scipy.sparse.csr": "csr", "scipy.sparse.csc": "csc"}
    if sparse_backend in formats:
        assert masks.format == formats[sparse_backend]
    elif sparse_backend is not None:
        assert isinstance(masks, sparse.GCXS if sparse_backend.endswith("GCXS") else sparse.COO)


@pytest.mark.parametrize("use_sparse", [None, True, False, *SPARSE_FORMATS])
@pytest.mark.parametrize("dtype", [">f4", ">u2", ">c8", "f2"])
def test_masks_in_numbers_that_scipy_does_not_take(dtype: str, use_sparse: Any) -> None:
    """Foreign byte order, as of a file, and half precision."""
    made = np.abs(stack(dtype="c8")).astype(dtype)
    whole = np.abs(stack(dtype="c8"))
    for kind in (np.array, sparse.COO.from_numpy):
        singles = [functools.partial(kind, made[i]) for i in range(3)]
        for container in (
            MaskContainer(functools.partial(kind, made), use_sparse=use_sparse),
            MaskContainer(singles, use_sparse=use_sparse),
            MaskContainer(lambda: whole, dtype=dtype, use_sparse=use_sparse),
        ):
            assert container.dtype.isnative
            masks = container.get(part(), transpose=False)
            assert masks.dtype.isnative
            np.testing.assert_array_equal(to_dense(masks), made.reshape(3, -1))
            in_dtype = container.get(part(), dtype=dtype, transpose=False)
            np.testing.assert_array_equal(to_dense(in_dtype), made.reshape(3, -1))


@pytest.mark.parametrize("use_sparse", [None, True, False, *SPARSE_FORMATS])
def test_sparse_masks_with_a_background(use_sparse: Any) -> None:
    hole = stack() > 0
    for container in (
        MaskContainer(lambda: ~sparse.COO.from_numpy(hole), use_sparse=use_sparse),
        MaskContainer(
            [functools.partial(operator.invert, sparse.COO.from_numpy(h)) for h in hole], use_sparse=use_sparse
        ),
    ):
        np.testing.assert_array_equal(to_dense(container.get(part(), transpose=False)), ~hole.reshape(3, -1))


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Any:
        self.calls += 1
        return stack()


def test_masks_are_made_on_first_need_and_kept() -> None:
    factory = Counted()
    container = MaskContainer(factory, dtype=np.float64, use_sparse=False, count=3)
    assert len(container) == 3
    assert container.dtype == np.float64
    assert container.use_sparse is False
    assert factory.calls == 0
    first = container.get(part())
    assert container.get(part()) is first
    assert container.get_masks_for_slice(part()) is first
    assert container.get_for_sig_slice(part().sig) is first
    assert container.get_for_idx([None, part().sig], 1) is first
    assert factory.calls == 1


def test_only_factories_travel() -> None:
    container = MaskContainer([functools.partial(np.ones, SIG)])
    container.get(part())
    light = len(pickle.dumps(container))
    again = pickle.loads(pickle.dumps(container))
    assert light < 1000
    np.testing.assert_array_equal(again.get(part()), container.get(part()))


def test_large_factories_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    large = np.ones((600, 600))

    def closure() -> Any:
        return large

    def default(masks: Any = large) -> Any:
        return masks

    caplog.set_level(logging.WARNING)
    for factory in (closure, default, functools.partial(np.asarray, large), functools.partial(np.asarray, a=large)):
        caplog.clear()
        warn_if_large([factory])
        assert "sent to every worker" in caplog.text
        caplog.clear()
        warn_if_large(factory)
        assert "sent to every worker" in caplog.text
    caplog.clear()
    warn_if_large(stack)
    assert not caplog.records


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="use_sparse must be"):
        MaskContainer(stack, use_sparse="scipy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="default_sparse"):
        MaskContainer(stack, default_sparse="coo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend"):
        MaskContainer(stack, backend="tensorflow")
    with pytest.raises(TypeError, match="mask_factories"):
        MaskContainer(np.ones(SIG))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="mask_factories"):
        MaskContainer([])
    container = MaskContainer(stack)
    with pytest.raises(TypeError, match="Slice"):
        container.get(0)
    with pytest.raises(ValueError, match="do not fit"):
        container.get(part((1, 0)))
    with pytest.raises(ValueError, match="sparse_backend"):
        container.get(part(), sparse_backend="coo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="given as 4"):
        MaskContainer(stack, count=4).get(part())
    with pytest.raises(ValueError, match="same shape"):
        MaskContainer([lambda: np.ones((2, 2)), lambda: np.ones((2, 3))]).get(part())
    with pytest.raises(ValueError, match="two axes"):
        MaskContainer(lambda: np.ones(3)).get(part())


def test_masks_for_tiles_of_any_backend() -> None:
    """Those for the CPU are the same; on a GPU there are no arrays of pydata sparse, and that is said."""
    container = MaskContainer(stack, backend="scipy.sparse.csr_matrix")
    np.testing.assert_array_equal(container.get(part()), container.get(part(), backend="numpy"))
    assert MaskContainer(stack, backend="cupy", default_sparse="sparse.pydata").use_sparse is False
    with pytest.raises(ValueError, match=r"no sparse masks of the format 'sparse\.pydata' on a GPU"):
        MaskContainer(stack, use_sparse="sparse.pydata", backend="cupy").get(part())


@pytest.mark.skipif(not has_cupy(), reason="there is no GPU with CuPy here")
@pytest.mark.parametrize("use_sparse", [False, "scipy.sparse.csr", "scipy.sparse.csc"])
def test_masks_on_a_gpu(use_sparse: Any) -> None:
    container = MaskContainer(stack, use_sparse=use_sparse)
    there = container.get(part(), backend="cupy")
    assert type(there).__module__.startswith("cupy")
    want = container.get(part())
    got = there.get()
    np.testing.assert_array_equal(*(a if use_sparse is False else a.toarray() for a in (got, want)))
