"""Packages that others wrote for LiberTEM, unchanged: what they compute is right, and is what LiberTEM computes.

They are run where they are installed; see docs/libertem.md for how to do that without LiberTEM. Each program says
itself whether what it got is right, and writes it down, to be compared with what it gets from LiberTEM
(``--peer PYTHON``, a Python that has the packages, too).
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-W", "ignore", "-m", "tilework.compat.libertem")

HEAD = """\
import sys

import libertem.api as lt
import numpy as np
from libertem.executor.inline import InlineJobExecutor

def make(executor):
    if executor == "inline":
        return lt.Context(executor=InlineJobExecutor())
    return lt.Context.make_with(executor, cpus=2)

def keep(**results):
    np.savez(sys.argv[2], **results)
"""

BLOBFINDER = """\
from libertem.udf.masks import ApplyMasksUDF
from libertem_blobfinder.common.gridmatching import Matcher
from libertem_blobfinder.common.patterns import Circular, RadialGradient, feature_vector
from libertem_blobfinder.udf.correlation import FastCorrelationUDF, run_blobfinder
from libertem_blobfinder.udf.refinement import run_refine

rng = np.random.default_rng(7)
nav, side = (4, 3), 96
y, x = np.mgrid[:side, :side]
zero = 47.5 + rng.normal(scale=0.5, size=(*nav, 2))
a, b = np.array((19.25, 0.5)), np.array((-0.75, 20.5))
data = np.zeros((*nav, side, side), dtype=np.float32)
for where in np.ndindex(nav):
    for i, j in np.ndindex(3, 3):
        py, px = zero[where] + (i - 1) * a + (j - 1) * b
        data[where] += 100 * np.clip(5.5 - np.hypot(y - py, x - px), 0, 1)
data = rng.poisson(data + 1).astype(np.float32)

if __name__ == "__main__":
    with make(sys.argv[1]) as ctx:
        ds = ctx.load("memory", data=data, sig_dims=2, num_partitions=3)
        pattern = RadialGradient(radius=5)
        _, centers, refineds, values, _, peaks = run_blobfinder(
            ctx=ctx, dataset=ds, match_pattern=pattern, num_peaks=9
        )
        lattice = [np.array((47.5, 47.5)) + i * a + j * b for i, j in np.mgrid[-1:2, -1:2].reshape(2, -1).T]
        assert all(np.hypot(*(peaks - each).T).min() < 2 for each in lattice)
        result, used = run_refine(
            ctx, ds, zero=np.array((48, 48)), a=np.array((19, 0)), b=np.array((0, 20)), match_pattern=pattern,
            matcher=Matcher(), indices=np.mgrid[-1:2, -1:2]
        )
        for name, truth in (("zero", zero), ("a", a), ("b", b)):
            assert np.abs(result[name].data - truth).max() < 0.25, name
        shift = FastCorrelationUDF.aux_data(
            data=np.round(zero - 47.5).astype(np.float32).reshape(-1), kind="nav", extra_shape=(2,), dtype="float32"
        )
        roi = np.zeros(nav, dtype=bool)
        roi[1:3, ::2] = True
        udf = FastCorrelationUDF(peaks=np.array(lattice).astype(int), match_pattern=pattern, zero_shift=shift)
        shifted = ctx.run_udf(dataset=ds, udf=udf, roi=roi)
        truth = zero[roi][:, np.newaxis] + np.array(lattice) - 47.5
        assert np.abs(shifted["refineds"].raw_data - truth).max() < 0.5
        masks = feature_vector(side, side, peaks=np.array(lattice).astype(int), match_pattern=Circular(radius=4))
        features = ctx.run_udf(dataset=ds, udf=ApplyMasksUDF(mask_factories=lambda: masks, mask_count=9))
        dense = np.asarray(masks.todense()) if hasattr(masks, "todense") else np.asarray(masks)
        expected = np.tensordot(data, dense.reshape(9, side, side), axes=((2, 3), (1, 2)))
        assert np.allclose(features["intensity"].data, expected, rtol=1e-4)
        keep(
            peaks=np.sort(peaks, axis=0), features=features["intensity"].data, used=used,
            **{name: buffer.data for name, buffer in result.items()},
            **{f"shifted_{name}": buffer.data for name, buffer in shifted.items()},
        )
"""

HOLO = """\
from libertem_holo.base.filters import butterworth_disk
from libertem_holo.base.generate import hologram_frame
from libertem_holo.base.reconstr import reconstruct_frame
from libertem_holo.base.utils import estimate_sideband_position, estimate_sideband_size, get_slice_fft
from libertem_holo.udf.reconstr import HoloReconstructUDF

if __name__ == "__main__":
    side, out = 128, (64, 64)
    y, x = np.mgrid[:side, :side]
    phase = 2 * np.exp(-((y - 60) ** 2 + (x - 70) ** 2) / 800)
    holo = hologram_frame(np.ones_like(phase), phase)
    data = np.random.default_rng(1).poisson(np.broadcast_to(holo, (3, 4, side, side))).astype(np.uint16)
    position = estimate_sideband_position(data[0, 0].astype(float), holo_sampling=(1, 1))
    size = estimate_sideband_size(position, (side, side))
    aperture = np.fft.fftshift(butterworth_disk(shape=out, radius=size))
    with make(sys.argv[1]) as ctx:
        ds = ctx.load("memory", data=data, sig_dims=2, num_partitions=3)
        udf = HoloReconstructUDF(out_shape=out, sb_position=position, aperture=aperture)
        wave = ctx.run_udf(dataset=ds, udf=udf)["wave"].data
    cut = get_slice_fft(out, (side, side))
    for where in np.ndindex(3, 4):
        expected = reconstruct_frame(data[where].astype(float), position, aperture, cut)
        assert np.allclose(wave[where], expected, rtol=1e-5, atol=1e-4 * np.abs(expected).max())
    keep(wave=wave)
"""

PTYCHOGRAPHY = """\
np.int = int  # the package is of a time when NumPy had it

from ptychography40.reconstruction.common import wavelength
from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks

if __name__ == "__main__":
    nav, side = (12, 10), 16
    data = np.random.default_rng(5).poisson(20, size=(*nav, side, side)).astype(np.float32)
    optics = dict(
        lamb=wavelength(300), dpix=12.7e-12, semiconv=25e-3, semiconv_pix=5.0, cy=8.0, cx=8.0, cutoff=1
    )
    with make(sys.argv[1]) as ctx:
        ds = ctx.load("memory", data=data, sig_dims=2, num_partitions=3)
        result = ctx.run_udf(dataset=ds, udf=SSB_UDF(**optics, dtype=np.float64))
    masks = generate_masks(reconstruct_shape=nav, mask_shape=(side, side), dtype=np.float64, **optics).todense()
    # Each spatial frequency has a mask of its own; its coefficient is that of the masked intensity over the scan.
    y, x = np.mgrid[: nav[0], : nav[1]]
    frequencies = list(np.ndindex(nav[0] // 2 + 1, nav[1]))
    waves = [np.exp(-2j * np.pi * (y * v / nav[0] + x * u / nav[1])) for v, u in frequencies]
    expected = [np.sum(np.tensordot(data, mask, 2) * wave) for mask, wave in zip(masks, waves)]
    got = [result["fourier"].data[each] for each in frequencies]
    assert np.allclose(got, expected, atol=1e-6 * np.abs(expected).max())
    keep(**{name: buffer.data for name, buffer in result.items()})
"""

PARALLAX = """\
import libertem_parallax as prlx

if __name__ == "__main__":
    nav = (10, 12)
    data = np.random.default_rng(9).poisson(5, size=(*nav, 32, 32)).astype(np.uint8)
    udf = prlx.ParallaxUDF.from_parameters(
        shape=data.shape, scan_sampling=(3.5, 3.5), angular_sampling=(0.4, 0.4), energy=300e3, semiangle_cutoff=4.0,
        aberration_coefs={"C10": -1.5e4}, rotation_angle=np.deg2rad(-15), upsampling_factor=2,
    )
    flip = prlx.ParallaxPhaseFlipUDF.from_parallax_udf(udf)
    results = []
    with make(sys.argv[1]) as ctx:
        for each in (data, 3 * data, data[::-1].copy()):
            ds = ctx.load("memory", data=each, sig_dims=2, num_partitions=3)
            results.append([dict(r.items()) for r in ctx.run_udf(dataset=ds, udf=[udf, flip])])
    once, thrice, turned = ([r["reconstruction"].data for r in each] for each in results)
    for one, three, other in zip(once, thrice, turned):
        assert np.any(one)
        assert np.allclose(3 * one, three, atol=1e-4 * np.abs(one).max())
        assert not np.allclose(one, other)
    keep(parallax=once[0], flipped=once[1])
"""

UI = """\
import asyncio

from libertem.udf.com import CoMUDF
from libertem_ui.live_plot import AperturePlot
from libertem_ui.windows.com import CoMImagingWindow
from libertem_ui.windows.imaging import FrameImagingWindow, VirtualDetectorWindow

async def use(ctx, ds, data):
    window = FrameImagingWindow.using(ctx, ds)
    window.layout()
    shown = {}
    for mode in ("Sum", "Logsum", "Pick"):
        window._mode_selector.value = mode
        await window.run_this()
        shown[mode] = np.array(window.sig_plot.data)
        assert np.array_equal(window.sig_plot.im.array, shown[mode]), mode  # all of it, not the first part
    assert np.allclose(shown["Sum"], data.sum(axis=(0, 1)))
    assert np.isclose(shown["Pick"][:, :, np.newaxis, np.newaxis], data.transpose(2, 3, 0, 1)).all(axis=(0, 1)).any()
    detector = VirtualDetectorWindow.linked_to(window)
    detector._mode_selector.value = "Whole Frame"
    await detector.run_this()
    shown["detector"] = np.array(detector.nav_plot.data)
    assert np.allclose(shown["detector"], data.sum(axis=(2, 3)))
    com = CoMImagingWindow.using(ctx, ds)
    await com.run_this()
    manager = window.results_manager
    assert len(manager.all_results) == 4
    return shown

if __name__ == "__main__":
    data = np.random.default_rng(2).random((8, 10, 32, 30)).astype(np.float32)
    with make(sys.argv[1]) as ctx:
        ds = ctx.load("memory", data=data, sig_dims=2, num_partitions=4)
        shown = asyncio.run(use(ctx, ds, data))
        udf = CoMUDF.with_params()
        channels = {"size": "magnitude", "y": ("raw_shifts", lambda shift: shift[..., 0])}
        plot = AperturePlot.new(ds, udf, channel=channels)
        result = ctx.run_udf(dataset=ds, udf=udf, plots=[plot])
        assert np.array_equal(plot.data, result["magnitude"].data)
        plot.change_channel("y")
        assert np.array_equal(plot.data, result["raw_shifts"].data[..., 0])
    keep(**shown)
"""

LIVE_HEAD = """\
import contextlib

from libertem.udf.sum import SumUDF
from libertem.udf.sumsigudf import SumSigUDF
from libertem_live.api import Hooks, LiveContext

class Watch(Hooks):
    shapes = []
    def on_ready_for_data(self, env):
        self.shapes.append(tuple(env.aq.shape.nav))

def wait_for(sim):
    for _ in range(5):  # one wait is ten seconds
        with contextlib.suppress(RuntimeError):
            sim.wait_for_listen()
            return

def make_live(executor):
    return LiveContext() if executor == "pipelined" else LiveContext(executor=make(executor).executor)
"""

LIVE_MEMORY = """\
from libertem_live.udf.monitor import SignalMonitorUDF

if __name__ == "__main__":
    data = np.random.default_rng(3).random((5, 6, 20, 30)).astype(np.float32)
    with make_live(sys.argv[1]) as ctx, ctx.make_connection("memory").open(data=data) as conn:
        aq = ctx.make_acquisition(conn=conn, hooks=Watch())
        total, sums, last = ctx.run_udf(dataset=aq, udf=[SumUDF(), SumSigUDF(), SignalMonitorUDF()])
        for part in ctx.run_udf_iter(dataset=aq, udf=SumUDF()):
            pass
        offline = ctx.run_udf(dataset=ctx.load("memory", data=data, sig_dims=2), udf=SumUDF())
    assert Watch.shapes == [(5, 6)] * 2
    assert np.allclose(total["intensity"].data, data.sum(axis=(0, 1)))
    assert np.allclose(part.buffers[0]["intensity"].data, total["intensity"].data)
    assert np.allclose(offline["intensity"].data, total["intensity"].data)
    assert np.array_equal(last["intensity"].data, data[-1, -1])
    keep(total=total["intensity"].data, sums=sums["intensity"].data)
"""

LIVE_DECTRIS = """\
from libertem_live.detectors.dectris.sim import DectrisSim

if __name__ == "__main__":
    api_port, data_port = map(int, sys.argv[3:5])
    sim = DectrisSim(port=api_port, zmqport=data_port, num_mock_frames=64, verbose=False)
    sim.start()
    wait_for(sim)
    try:
        where = dict(api_host="127.0.0.1", api_port=api_port, data_host="127.0.0.1", data_port=data_port)
        with make_live(sys.argv[1]) as ctx, ctx.make_connection("dectris").open(**where, buffer_size=64) as conn:
            for n in (1, 2):
                aq = ctx.make_acquisition(
                    conn=conn, nav_shape=(8, 8), frames_per_partition=16, hooks=Watch(),
                    controller=conn.get_active_controller(trigger_mode="exte"),
                )
                total, sums = ctx.run_udf(dataset=aq, udf=[SumUDF(), SumSigUDF()])
                assert Watch.shapes == [(8, 8)] * n
                # all pixels of a mock frame are its number
                assert np.array_equal(sums["intensity"].data.reshape(-1), np.arange(64) * total["intensity"].data.size)
                assert np.all(total["intensity"].data == np.arange(64).sum())
    finally:
        with contextlib.suppress(Exception):
            sim.stop()
    keep(total=total["intensity"].data, sums=sums["intensity"].data)
"""

LIVE_TPX3 = """\
from libertem_live.detectors.asi_tpx3.sim import TpxCameraSim

if __name__ == "__main__":
    port = int(sys.argv[3])
    sim = TpxCameraSim(cached="MEM", port=port, sleep=0.01, mock_nav_shape=(32, 32))
    sim.start()
    wait_for(sim)
    try:
        with make_live(sys.argv[1]) as ctx, ctx.make_connection("asi_tpx3").open(
            data_host="127.0.0.1", data_port=port, buffer_size=512
        ) as conn:
            pending = conn.wait_for_acquisition(20.0)
            aq = ctx.make_acquisition(conn=conn, pending_aq=pending, nav_shape=(32, 32), frames_per_partition=256)
            total, sums = ctx.run_udf(dataset=aq, udf=[SumUDF(), SumSigUDF()])
    finally:
        with contextlib.suppress(Exception):
            sim.stop()
    # each mock frame has as many events as its number says
    assert np.array_equal(sums["intensity"].data.reshape(-1), np.arange(32 * 32))
    assert total["intensity"].data.sum() == sums["intensity"].data.sum()
    keep(total=total["intensity"].data, sums=sums["intensity"].data)
"""

PROGRAMS = {
    "libertem-blobfinder": ("libertem_blobfinder", HEAD + BLOBFINDER),
    "libertem-holo": ("libertem_holo natsort ncempy empyre", HEAD + HOLO),
    "ptychography40": ("ptychography40", HEAD + PTYCHOGRAPHY),
    "libertem-parallax": ("libertem_parallax", HEAD + PARALLAX),
    "libertem-ui": ("libertem_ui panel strenum", HEAD + UI),
    "libertem-live": ("libertem_live", HEAD + LIVE_HEAD + LIVE_MEMORY),
    "libertem-live: dectris": (
        "libertem_live libertem_dectris flask zmq",
        HEAD + LIVE_HEAD + LIVE_DECTRIS,
    ),
    "libertem-live: tpx3": ("libertem_live libertem_asi_tpx3", HEAD + LIVE_HEAD + LIVE_TPX3),
}

RUNS = [
    (name, executor)
    for name in PROGRAMS
    for executor in ("inline", "threads", "pipelined", "dask")
    if not (
        # NumPy's old names are needed in this process only; a simulator's stream has no room for slow workers; Dask
        # streams nothing.
        (name == "ptychography40" and executor in {"pipelined", "dask"})
        or (name == "libertem-live: tpx3" and executor != "inline")
        or (name.startswith("libertem-live") and executor == "dask")
    )
]


def write_program(folder: Path, name: str) -> Path:
    """Write a program down; skips the test where the package is not installed."""
    modules, code = PROGRAMS[name]
    absent = [module for module in modules.split() if importlib.util.find_spec(module) is None]
    if absent:
        pytest.skip(f"{name} is not installed here, or not with all that it needs: there is no {', '.join(absent)}")
    program = folder / "program.py"
    program.write_text(code)
    return program


def run(folder: Path, command: tuple[str, ...], executor: str, out: str) -> dict[str, np.ndarray]:
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in (one, two)]
    done = subprocess.run(
        [*command, "program.py", executor, out, *ports],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / out) as results:
        return dict(results)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "executor"), RUNS)
def test_programs(tmp_path: Path, name: str, executor: str) -> None:
    write_program(tmp_path, name)
    assert run(tmp_path, COMMAND, executor, "ours.npz")


@pytest.mark.timeout(800)
@pytest.mark.parametrize("name", PROGRAMS)
def test_results_are_those_of_libertem(tmp_path: Path, peer_python: str, name: str) -> None:
    write_program(tmp_path, name)
    modules = ", ".join(PROGRAMS[name][0].split())
    has_it = subprocess.run([peer_python, "-c", f"import {modules}"], capture_output=True, timeout=120, check=False)
    if has_it.returncode:
        pytest.skip(f"{peer_python} has LiberTEM, but not all of {modules}")
    ours = run(tmp_path, COMMAND, "inline", "ours.npz")
    theirs = run(tmp_path, (peer_python, "-W", "ignore"), "inline", "theirs.npz")
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert (ours[key].shape, ours[key].dtype) == (expected.shape, expected.dtype), key
        scale = float(np.abs(np.nan_to_num(expected)).max(initial=0))
        np.testing.assert_allclose(ours[key], expected, rtol=1e-4, atol=1e-5 * scale, err_msg=key)
