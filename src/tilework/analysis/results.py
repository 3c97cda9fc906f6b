"""Results with pictures, made from arrays. Pictures are drawn when they are looked at."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.analysis import AnalysisResult
from tilework.common.arrays import without_mask
from tilework.viz import rgb_from_2dvector, visualize_simple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "Damage",
    "complex_results",
    "log_and_lin",
    "positions_with_values",
    "real_result",
    "sig_damage",
    "vector_picture",
]

Array = np.ndarray[Any, np.dtype[Any]]
# Where there are values: everywhere (True), nowhere (False), or by position.
Damage = bool | Array


def real_result(
    values: Array,
    title: str,
    desc: str,
    key: str,
    damage: Damage = True,
    *,
    logarithmic: bool = False,
    **kwargs: Any,
) -> AnalysisResult:
    """Return a result of real numbers.

    Parameters
    ----------
    values
        The numbers.
    title, desc, key
        See `AnalysisResult`.
    damage
        Where there are values, in a shape that broadcasts to theirs.
    logarithmic
        Whether the picture shows their logarithm.
    **kwargs
        For `visualize_simple`.
    """
    picture = partial(visualize_simple, values, logarithmic=logarithmic, damage=np.asarray(damage), **kwargs)
    return AnalysisResult(values, picture, title, desc, key)


def log_and_lin(
    values: Array, title: str, desc: str, key: str, damage: Damage = True, *, default_lin: bool
) -> list[AnalysisResult]:
    """Return real numbers as two results: shown as they are, and by their logarithm.

    Parameters
    ----------
    values, title, desc, key, damage
        As of `real_result`.
    default_lin
        Whether the first, named `key`, shows them as they are; the other has ``_log`` or else ``_lin`` appended.
    """
    keys = {False: key, True: f"{key}_log"} if default_lin else {False: f"{key}_lin", True: key}
    made = {
        logarithmic: real_result(
            values,
            f"{title} [{scale}]",
            f"{desc} {scale}-scaled",
            keys[logarithmic],
            damage,
            logarithmic=logarithmic,
        )
        for logarithmic, scale in ((False, "lin"), (True, "log"))
    }
    return [made[not default_lin], made[default_lin]]


def complex_results(
    values: Array, key: str, title: str, desc: str, damage: Damage = True, *, default_lin: bool = True
) -> list[AnalysisResult]:
    """Return complex numbers as results: magnitude, its logarithm, real and imaginary part, angle, and as they are.

    Parameters
    ----------
    values
        The numbers.
    key
        Name of the magnitude, and start of the others: ``_log`` (or ``_lin``), ``_real``, ``_imag``, ``_angle``,
        ``_complex``.
    title, desc
        See `AnalysisResult`; what it is of the numbers is appended.
    damage
        Where there are values.
    default_lin
        Whether `key` is the magnitude as it is; otherwise it is shown by its logarithm, and the other has ``_lin``.
    """
    magnitude = np.abs(values)
    parts: Mapping[str, tuple[str, Array]] = {
        key if default_lin else f"{key}_lin": ("magn", magnitude),
        f"{key}_log" if default_lin else key: ("log(magn)", magnitude),
        f"{key}_real": ("real", values.real),
        f"{key}_imag": ("imag", values.imag),
        f"{key}_angle": ("angle", np.angle(values)),
    }
    results = [
        real_result(
            part, f"{title} [{what}]", f"{desc} [{what}]", name, damage, logarithmic=what.startswith("log"),
            **({"colormap": "tilework_cyclic", "vmin": -np.pi, "vmax": np.pi} if what == "angle" else {}),
        )
        for name, (what, part) in parts.items()
    ]  # fmt: skip
    picture = vector_picture(values.imag, values.real, damage)
    results.append(AnalysisResult(values, picture, f"{title} [complex]", f"{desc} [complex]", f"{key}_complex"))
    return results


def vector_picture(y: Array, x: Array, damage: Damage = True) -> Any:
    """Return a function that draws the vectors (`y`, `x`) as colours; grey where there is none, as `damage` says."""
    return partial(_draw_vectors, y, x, damage)


def _draw_vectors(y: Array, x: Array, damage: Damage) -> Array:
    parts = (without_mask(part, np.asarray(damage)) for part in (y, x))
    down, right = (np.where(there, part, np.nan) for part, there in parts)
    return rgb_from_2dvector(down, right)


def sig_damage(damage: Damage) -> bool:
    """Return whether there is anything in a result that has no scan positions."""
    return bool(np.any(damage))


def positions_with_values(dataset: Any, roi: NDArray[np.bool_] | None) -> Damage:
    """Return where a run has results: at selected positions with a frame.

    Parameters
    ----------
    dataset
        What is evaluated.
    roi
        Selected positions, bool of the shape of the scan; None: all.

    Returns
    -------
    bool or numpy.ndarray
        True: everywhere; otherwise bool of the shape of the scan.
    """
    if roi is None and dataset.absent_frames is None:
        return True
    present: NDArray[np.bool_] = dataset.present_positions(roi)
    return present
