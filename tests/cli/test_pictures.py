"""Pictures of results say what is known of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from tilework.cli.pictures import _figures, write_pictures
from tilework.io.results import ResultChannel

VALUES = np.geomspace(1, 500, 64).reshape((8, 8))


def figure(udf: str, channel: ResultChannel) -> Any:
    ((_, make),) = _figures("mine", udf, channel, alone=True)
    return make()


@pytest.mark.parametrize(
    ("name", "units"), [("magnitude", "px"), ("divergence", "px per scan step"), ("curl", "px per scan step")]
)
def test_units_of_a_centre_of_mass(name: str, units: str, tmp_path: Any) -> None:
    """A function does not say them; those of the built-in one are known, and others win."""
    channel = ResultChannel(name, VALUES, "nav")
    assert write_pictures(tmp_path, "mine", "CoMUDF", {name: channel}) == ["mine.png"]
    assert figure("CoMUDF", channel).axes[1].get_ylabel() == units
    assert figure("CoMUDF", ResultChannel(name, VALUES, "nav", units="mrad")).axes[1].get_ylabel() == "mrad"
    assert figure("Other", channel).axes[1].get_ylabel() == ""


def test_what_has_no_number_has_no_picture(tmp_path: Any) -> None:
    """Such as the curl along a single line of the scan."""
    nothing = np.full((1, 8), np.nan)
    assert write_pictures(tmp_path, "mine", "CoMUDF", {"curl": ResultChannel("curl", nothing, "nav")}) == []
    hidden = ResultChannel("curl", VALUES, "nav", valid=np.zeros((8, 8), dtype=bool))
    assert write_pictures(tmp_path, "mine", "CoMUDF", {"curl": hidden}) == []


@pytest.mark.parametrize(("udf", "logarithmic"), [("SumUDF", True), ("LogsumUDF", False)])
def test_patterns_are_logarithmic_unless_they_are_logarithms(udf: str, logarithmic: bool) -> None:
    (image,) = figure(udf, ResultChannel("pattern", VALUES, "sig")).axes[0].images
    assert isinstance(image.norm, LogNorm) is logarithmic


def test_all_numbers_of_a_colour_bar_are_of_one_size() -> None:
    """Also those between powers of ten, where a bar has few of these."""
    bar = figure("SumUDF", ResultChannel("pattern", VALUES + 20, "sig")).axes[1]
    bar.figure.draw_without_rendering()
    labels = [*bar.get_yticklabels(which="major"), *bar.get_yticklabels(which="minor")]
    assert len({label.get_size() for label in labels if label.get_text()}) == 1


def test_a_picture_that_cannot_be_drawn_is_left_out(tmp_path: Any) -> None:
    """The numbers, and the other pictures, are there without it: here matplotlib does not know what the unit says."""
    channels = {
        "bad": ResultChannel("bad", VALUES, "sig", units=r"$\nothing$"),
        "good": ResultChannel("good", VALUES > 20, "sig"),
    }
    with pytest.warns(RuntimeWarning, match="mine_bad.png cannot be drawn: ValueError"):
        assert write_pictures(tmp_path, "mine", "Other", channels) == ["mine_good.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine_good.png"]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path: Any) -> None:
    """As when the disk is full."""
    with pytest.raises(OSError, match="No such file"):
        write_pictures(tmp_path / "gone", "mine", "Other", {"x": ResultChannel("x", VALUES, "nav")})


def test_lengths_along_a_line_are_those_of_valid_vectors() -> None:
    field = np.ones((1, 8, 2))
    valid = np.ones((1, 8, 2), dtype=bool)
    valid[0, 3, 1] = False
    (line,) = figure("CoMUDF", ResultChannel("field", field, "nav", extra_ndim=1, valid=valid)).axes[0].lines
    assert np.isnan(line.get_ydata()).tolist() == [i == 3 for i in range(8)]


def test_no_picture_takes_the_name_of_another(tmp_path: Any) -> None:
    """A result of one function may be called as a function, or as a page of another result."""
    channels = {
        "x": ResultChannel("x", np.stack([VALUES, VALUES], axis=-1), "nav", extra_ndim=1),
        "x_1": ResultChannel("x_1", VALUES, "nav"),
    }
    written = write_pictures(tmp_path, "mine", "Other", channels)
    assert written == ["mine_x_0.png", "mine_x_1.png", "mine_x_1-2.png"]
    written += write_pictures(tmp_path, "mine_x_0", "Other", {"y": ResultChannel("y", VALUES, "nav")})
    assert written[-1] == "mine_x_0-2.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
