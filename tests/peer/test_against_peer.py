"""tilework beside LiberTEM, run as a black box in its own Python: the same names, shapes, dtypes and numbers.

    python -m pytest tests/peer --peer /path/to/python

or ``make peer PEER=/path/to/python``. What is compared is in ``peer_cases.py``; here is how, and what differs on
purpose.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import numpy as np
import pytest

import peer_cases
from peer_cases import CASES, ERROR, Case, Library
from tilework.masks import background_subtraction, radial_bins, radial_gradient, rectangular


@pytest.fixture(scope="session")
def peer_results(peer_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Everything that the peer computes, by case."""
    target = tmp_path_factory.mktemp("peer") / "results.npz"
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONWARNINGS"}}
    command = [peer_python, "-W", "ignore", peer_cases.__file__, "libertem", str(target)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env=environment, cwd=target.parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = {case.name: {} for case in CASES}
    with np.load(target) as stored:
        for key in stored.files:
            name, _, result = key.partition("|")
            found[name][result] = stored[key]
    return found


@pytest.fixture(scope="session")
def tilework() -> Any:
    lib = Library("tilework")
    yield lib
    lib.context.close()


# What the peer raises an error for, by the name of the case: not to be computed, or a defect of its own.
PEER_RAISES = (
    re.compile(r"(derived )?logsum: c8"),
    re.compile(r"(derived )?crystallinity.*: c8"),
    # A coordinate as region of interest, where a UDF looks at the region.
    re.compile(r"(com.*|.*shifted for each frame): .*, one, "),
)

# What ours raises an error for, with its message, where the peer raises another or takes something else for the result.
OURS_RAISES = {
    re.compile(r"(derived )?crystallinity.*c8|analysis fft mask: c8"): "real frames",
}
# Results that differ on purpose, by the name of the case and of the result.
DIFFERS = {
    # Where no position is selected, no order dominates; the peer says 1.
    re.compile(r"analysis radial fourier.*, some"): re.compile("dominant_"),
    # The peer shows complex frames themselves instead of their transforms; see test_transforms_of_complex_frames.
    re.compile(r"analysis fft of a frame.*: c8"): re.compile("intensity"),
}


@pytest.mark.timeout(600)  # the first case waits for all of the peer's
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_results(case: Case, peer_results: dict[str, dict[str, Any]], tilework: Library) -> None:
    """The same results by the same names, of the same kind, shape and dtype, and values within rounding."""
    theirs = peer_results[case.name]
    for known, message in OURS_RAISES.items():
        if known.match(case.name):
            with pytest.raises(ValueError, match=message):
                case.run(tilework)
            return
    differs = [result for known, result in DIFFERS.items() if known.match(case.name)]
    ours = {name: np.asarray(value) for name, value in case.run(tilework).items()}
    if any(known.match(case.name) for known in PEER_RAISES):
        assert theirs.keys() == {ERROR}, "the peer computes this now: compare it"
        assert any(np.isfinite(array).any() for array in ours.values())
        return
    assert ERROR not in theirs, theirs
    assert list(ours) == list(theirs), "programs may take results by their order"
    for name, array in ours.items():
        expected = theirs[name]
        assert array.shape == expected.shape, name
        if any(result.match(name) for result in differs) and "picture" not in name:
            continue
        assert array.dtype == expected.dtype, name
        if name.startswith("magnitude (nav, complex"):
            continue  # see test_lengths_of_complex_vectors
        finite = np.abs(expected[np.isfinite(expected)])
        largest = max(float(finite.max()) if finite.size else 0.0, case.scale)
        np.testing.assert_allclose(array, expected, rtol=case.rtol, atol=case.atol * largest, err_msg=name)


def test_lengths_of_complex_vectors(peer_results: dict[str, dict[str, Any]], tilework: Library) -> None:
    """The length of a vector is no complex number; the peer's is."""
    (case,) = (c for c in CASES if c.name == "com: c8, all, corrections none")
    ours, theirs = case.run(tilework), peer_results[case.name]
    name, field = "magnitude (nav, complex64, ())", ours["field (nav, complex64, (2,))"]
    assert np.abs(theirs[name].imag).max() > 0
    np.testing.assert_allclose(ours[name], np.linalg.norm(field, axis=-1), rtol=1e-5)


def test_transforms_of_complex_frames(peer_results: dict[str, dict[str, Any]], tilework: Library) -> None:
    """The transform of a complex frame is a transform; the peer gives the frame."""
    (case,) = (c for c in CASES if c.name == "analysis fft of a frame, nothing masked: c8, all")
    name, frame = "intensity_complex, True", peer_cases.make_data("c8")[2, 1]
    np.testing.assert_array_equal(peer_results[case.name][name], frame)
    np.testing.assert_allclose(case.run(tilework)[name], np.fft.fftshift(np.fft.fft2(frame)), rtol=1e-4, atol=1e-2)


def test_orders_where_nothing_is_selected(peer_results: dict[str, dict[str, Any]], tilework: Library) -> None:
    """No order dominates where there is no frame; elsewhere it is the same as the peer's, or below what counts."""
    (case,) = (c for c in CASES if c.name == "analysis radial fourier, given: u2, some")
    ours, theirs = (results["dominant_0, True"] for results in (case.run(tilework), peer_results[case.name]))
    selected = peer_cases.roi("some")
    assert not ours[~selected].any()
    notable = selected & (ours > 0)
    assert notable.any()
    np.testing.assert_array_equal(ours[notable], theirs[notable])


def test_masks_that_differ() -> None:
    """Where the peer's masks are not what they are called, ours are.

    Its first of several normalised bins has a sum other than 1, when it begins in the centre; an antialiased gradient
    falls to -1 at its rim; without a ring there is NaN for the background; a rectangle beyond the left or upper edge
    comes in again at the other side.
    """
    bins = radial_bins(8, 8, 17, 17, radius=5, n_bins=3, normalize=True, use_sparse=False)
    np.testing.assert_allclose(bins.sum(axis=(1, 2)), 1, rtol=1e-12)
    assert radial_gradient(8, 8, 17, 17, 4.7, antialiased=True).min() == 0
    assert background_subtraction(8, 8, 17, 17, 0, 0).sum() == 1
    assert not rectangular(-5, -5, 3, 3, 17, 17).any()


def test_odd_frames_have_their_zero_frequency_in_the_middle() -> None:
    """Crystallinity: the ring lies around frequency 0 for odd sizes, too; the peer's is half a pixel off."""
    y = np.arange(15)[:, np.newaxis]
    frame = np.broadcast_to(1 + np.cos(2 * np.pi * y / 3), (15, 15)).astype(np.float32)
    lib = Library("tilework")
    dataset = lib.context.load("memory", data=frame[np.newaxis], sig_dims=2)
    # Five periods in a frame of 15 pixels: both of its frequencies, +5 and -5, lie on the axis.
    for bounds, expected in (((4.9, 5.1), 15 * 15), ((5.1, 7.4), 0)):
        result = lib.context.run_udf(dataset=dataset, udf=lib("udf.crystallinity").CrystallinityUDF(*bounds))
        np.testing.assert_allclose(result["intensity"].data, expected, atol=1e-3)
    lib.context.close()
