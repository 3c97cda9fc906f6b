"""The examples run on every executor with the same bits, find what was simulated, and draw their pictures."""

from __future__ import annotations

import importlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from every_executor import EVERY_EXECUTOR, make_context
from tilework.viz.figures import save_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilework.api import Context

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "angular_correlation",
    "annular_detectors",
    "blank_and_drift",
    "cross_correlation",
    "event_counting",
    "radial_profile",
    "strain",
    "symmetry",
]
# Of each scan, as many are computed on every executor.
ROWS = 8


def example(name: str) -> Any:
    return importlib.import_module(name).EXAMPLE


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scans")
    with ThreadPoolExecutor(2) as pool:
        paths = pool.map(lambda name: example(name).simulate(folder / f"{name}.npy"), NAMES)
        return dict(zip(NAMES, paths, strict=True))


@pytest.fixture(scope="module", params=[name for name in EVERY_EXECUTOR if name != "inline"])
def ctx(request: pytest.FixtureRequest) -> Iterator[Context]:
    with make_context(request.param) as context:
        yield context


@pytest.fixture(scope="module")
def expected(scans: dict[str, Path]) -> dict[str, Any]:
    with make_context("threads") as context:
        return {name: example(name).run(context, scans[name]) for name in NAMES}


@pytest.fixture(scope="module")
def run_rows(scans: dict[str, Path]) -> Callable[[str, Context], dict[str, Any]]:
    """Run an example on the first rows of its scan: enough for six partitions, and for a small part of the time."""

    def run(name: str, context: Context) -> dict[str, Any]:
        path = scans[name].with_suffix(".rows.npy")
        whole = example(name)
        model = replace(whole.model, scan_shape=(ROWS, whole.model.scan_shape[1]))
        if not path.exists():
            np.save(path, np.load(scans[name], mmap_mode="r")[:ROWS])
        results: dict[str, Any] = replace(whole, model=model).run(context, path)
        return results

    return run


@pytest.fixture(scope="module")
def expected_rows(run_rows: Callable[[str, Context], dict[str, Any]]) -> dict[str, Any]:
    with make_context("inline") as context:
        return {name: run_rows(name, context) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_on_every_executor(
    ctx: Context,
    name: str,
    run_rows: Callable[[str, Context], dict[str, Any]],
    expected_rows: dict[str, Any],
) -> None:
    results = run_rows(name, ctx)
    assert results.keys() == expected_rows[name].keys()
    for key, values in results.items():
        assert values.dtype == expected_rows[name][key].dtype
        assert values.tobytes() == expected_rows[name][key].tobytes(), key


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_pages(name: str, expected: dict[str, Any], tmp_path: Path) -> None:
    """Each example draws something, and has a page that shows its picture and how to run it."""
    one = example(name)
    save_figure(one.draw(expected[name], one.model), tmp_path / "picture.png", dpi=40)
    with Image.open(tmp_path / "picture.png") as image:
        assert np.asarray(image.convert("L")).std() > 20
    page = (ROOT / "docs" / "examples" / f"{name}.md").read_text(encoding="utf-8")
    assert f"python examples/{name}.py" in page
    assert (ROOT / "docs" / "examples" / f"{name}.png").stat().st_size < 120_000
    assert f"]({name}.png)" in page
    assert f"]({name}.md)" in (ROOT / "docs" / "examples" / "index.md").read_text(encoding="utf-8")


def test_all_examples_are_tested() -> None:
    sources = {p.stem: p.read_text(encoding="utf-8") for p in (ROOT / "examples").glob("*.py")}
    programs = {name for name, source in sources.items() if re.search(r"^EXAMPLE = ", source, re.MULTILINE)}
    assert programs == set(NAMES)


# -- what they find


def test_lattices(expected: dict[str, Any]) -> None:
    """The grains are turned by 11 and 38 degrees and not strained."""
    model, found = example("strain").model, expected["strain"]
    for share, angle in ((model.right_grain < 0.01, 11), (model.right_grain > 0.99, 38)):
        assert abs(np.median(found["rotation"][share]) - angle) < 0.5
        assert abs(np.median(found["dilation"][share])) < 0.01
        assert abs(np.median(found["shear"][share])) < 0.01


def test_deflection(expected: dict[str, Any]) -> None:
    """The disc is found to a few hundredths of a pixel."""
    model, found = example("cross_correlation").model, expected["cross_correlation"]["shift"]
    error = (found - found.mean(axis=(0, 1))) - (model.shift - model.shift.mean(axis=(0, 1)))
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_quadrants_follow_the_deflection(expected: dict[str, Any]) -> None:
    model, found = example("annular_detectors").model, expected["annular_detectors"]["difference"]
    for c in range(2):
        assert np.corrcoef(found[..., c].ravel(), model.shift[..., c].ravel())[0, 1] > 0.8


def test_counted_electrons(expected: dict[str, Any]) -> None:
    """Counting finds the electrons that were simulated, without the noise of the sum."""
    found, model = expected["event_counting"], example("event_counting").model
    assert abs(found["events"].mean() / model.electrons - 1) < 0.05
    assert found["events"].sum() == found["pattern"].sum()
    corner = (slice(0, 8), slice(0, 8))
    assert found["pattern"][corner].std() < 0.7 * found["summed"][corner].std()


def test_blank_frames_and_drift(expected: dict[str, Any]) -> None:
    found = expected["blank_and_drift"]
    blank = np.zeros((40, 40), dtype=bool)
    blank[13, 9:31] = blank[27, 22:] = blank[28, :6] = True
    np.testing.assert_array_equal(found["blank"], blank)
    np.testing.assert_array_equal(np.isnan(found["position"]).all(axis=-1), blank)
    np.testing.assert_allclose(found["drift"][-1], (3, -4), atol=0.5)


def test_angles_of_the_grains(expected: dict[str, Any]) -> None:
    model, found = example("angular_correlation").model, expected["angular_correlation"]
    for share, angle in ((model.right_grain < 0.01, 11), (model.right_grain > 0.99, 38)):
        assert abs(np.median(found["angle"][share]) - angle) < 2


def test_profiles_add_up(expected: dict[str, Any], scans: dict[str, Path]) -> None:
    """The first ring is the centre, the mean of the next is that of the frames."""
    frames = np.load(scans["radial_profile"])
    np.testing.assert_array_equal(expected["radial_profile"]["profile"][..., 0], frames[..., 32, 32])
    y, x = np.ogrid[:64, :64]
    ring = np.rint(np.hypot(y - 32, x - 32)) == 9
    np.testing.assert_allclose(expected["radial_profile"]["profile"][..., 9], frames[..., ring].mean(axis=-1))


def test_symmetries(expected: dict[str, Any], scans: dict[str, Path]) -> None:
    """Pearson's coefficients, as NumPy computes them."""
    model, found = example("symmetry").model, expected["symmetry"]
    pattern = np.sqrt(np.load(scans["symmetry"])[20, 10, 1:, 1:].astype(np.float64))
    y, x = np.mgrid[-31:32, -31:32]
    ring = (np.hypot(y, x) > model.disc_radius + 2) & (np.hypot(y, x) <= 31)
    for name, turned in (
        ("half_turn", pattern[::-1, ::-1]),
        ("quarter_turn", np.rot90(pattern)),
        ("mirror", pattern[:, ::-1]),
    ):
        assert found[name][20, 10] == pytest.approx(np.corrcoef(pattern[ring], turned[ring])[0, 1], rel=1e-4)
