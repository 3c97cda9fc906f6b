"""Kernels are loaded from disk without numba, and give the same wherever that is not possible."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tilework
from tilework.common.kernels import jit, object_code, sum_frames
from tilework.common.kernels import kernel as kernel_module
from tilework.common.kernels.kernel import Kernel
from tilework.common.kernels.rows import FOREIGN, NATIVE, even_places

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODULE = "tilework.common.kernels.sums_numba"
TYPES = ("u2x1", "t0", "i8x1", "i", "i", "i", "u4x1", "f8x1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where machine code is kept in this test."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_not_kept", [])
    monkeypatch.setattr(kernel_module, "_failures", [])
    return object_code._folders()[0]


def sums(kernel: Kernel, frames: NDArray[np.uint16]) -> list[float]:
    """Return the sum of each frame."""
    out = np.zeros(len(frames))
    count, pixels = frames.shape
    kernel(frames.reshape(-1), NATIVE, even_places(count, pixels), 0, count, pixels, np.empty(0, np.uint32), out)
    return out.tolist()


def run(program: str, folder: Path, **environment: str) -> str:
    """Run a program that keeps machine code in the folder of the test."""
    variables = {**os.environ, "NUMBA_CACHE_DIR": str(folder.parents[1]), **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PROGRAM = """
    import sys
    import numpy as np
    from tilework.common.kernels import sum_pixels
    total = np.zeros(3)
    sum_pixels(np.arange(30, dtype="u2").reshape(3, 10), total, compiled=True)
    print(total.tolist(), sorted({"numba", "llvmlite"} & set(sys.modules)))
"""
TOTAL = "[45.0, 145.0, 245.0]"


def test_another_process_loads_it_without_numba(folder: Path) -> None:
    kernel = Kernel(MODULE, "add_pixels")
    frames = np.arange(30, dtype=np.uint16).reshape(3, 10)
    assert sums(kernel, frames) == [45, 145, 245]
    assert len([*folder.iterdir()]) == 1
    assert run(PROGRAM, folder) == f"{TOTAL} ['llvmlite']"


def test_byte_order_and_length_are_part_of_the_types(folder: Path) -> None:
    """A tuple's length is seen by the compiler, as the dtype is; values of numbers are not."""
    kernel = Kernel(MODULE, "add_pixels")
    frames = np.arange(30, dtype=np.uint16)
    out = np.zeros(3)
    for order, data in ((NATIVE, frames), (FOREIGN, frames.byteswap())):
        kernel(data, order, even_places(3, 10), 0, 3, 10, np.empty(0, np.uint32), out)
        assert out.tolist() == [45, 145, 245]
    assert len([*folder.iterdir()]) == 2
    kernel(frames, NATIVE, even_places(3, 5), 0, 3, 5, np.empty(0, np.uint32), out)
    assert out.tolist() == [10, 35, 60]
    assert len([*folder.iterdir()]) == 2


def test_a_damaged_file_is_made_again(folder: Path) -> None:
    frames = np.arange(30, dtype=np.uint16).reshape(3, 10)
    sums(Kernel(MODULE, "add_pixels"), frames)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert object_code.find(MODULE, "add_pixels", TYPES) is None
    assert sums(Kernel(MODULE, "add_pixels"), frames) == [45, 145, 245]
    assert object_code.find(MODULE, "add_pixels", TYPES) is not None


@pytest.mark.usefixtures("folder")
def test_it_is_at_hand_once_it_is_kept() -> None:
    frames = np.arange(30, dtype=np.uint16)
    arguments = frames, NATIVE, even_places(3, 10), 0, 3, 10, np.empty(0, np.uint32), np.zeros(3)
    first, second = Kernel(MODULE, "add_pixels"), Kernel(MODULE, "add_pixels")
    assert not first.is_at_hand(*arguments)
    first(*arguments)
    assert first.is_at_hand(*arguments)
    assert second.is_at_hand(*arguments)


def test_machine_code_of_older_sources_is_removed(folder: Path) -> None:
    """But not that for other CPUs, of other compilers, and for other types: these may share a home folder."""
    folder.mkdir(parents=True)
    family = object_code._family(MODULE, "add_pixels", TYPES)
    others = {
        f"{family[:-10]}-01234567-0123456789abcdef.o",
        f"{object_code._family(MODULE, 'add_pixels', ('u1x1', *TYPES[1:]))}0123456789abcdef.o",
    }
    old = f"{family}0123456789abcdef.o"
    for name in (old, *others):
        (folder / name).write_bytes(b"")
    sums(Kernel(MODULE, "add_pixels"), np.zeros((1, 4), np.uint16))
    names = {file.name for file in folder.iterdir()}
    assert len(names) == 3
    assert old not in names
    assert others < names


def test_other_compilers_do_not_remove_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Pythons may share the sources, and have a numba each: they would compile again each time."""
    frames = np.zeros((1, 4), np.uint16)
    sums(Kernel(MODULE, "add_pixels"), frames)
    before = {file.name for file in folder.iterdir()}
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    for cached in (object_code._makers, object_code._version):
        cached.cache_clear()
    try:
        sums(Kernel(MODULE, "add_pixels"), frames)
        after = {file.name for file in folder.iterdir()}
    finally:
        for cached in (object_code._makers, object_code._version):
            cached.cache_clear()
    assert before < after
    assert len(after) == 2


def test_two_installations_with_one_folder_do_not_remove_what_the_other_has(folder: Path, tmp_path: Path) -> None:
    """Each has sources of its own, and may be of another version."""
    shutil.copytree(Path(tilework.__file__).parent, tmp_path / "other" / "tilework")
    paths = [str(Path(tilework.__file__).parents[1]), str(tmp_path / "other")]
    source = tmp_path / "other" / "tilework" / "common" / "kernels" / "sums_numba.py"
    source.write_text(source.read_text(encoding="utf-8") + "# newer\n", encoding="utf-8")
    assert [run(PROGRAM, folder, PYTHONPATH=path) for path in paths] == [f"{TOTAL} ['llvmlite', 'numba']"] * 2
    assert [run(PROGRAM, folder, PYTHONPATH=path) for path in paths] == [f"{TOTAL} ['llvmlite']"] * 2


def test_without_a_folder_it_works_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(jit, "_not_kept", [])
    for _ in range(2):
        assert sums(Kernel(MODULE, "add_pixels"), np.ones((2, 4), np.uint16)) == [4, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(tmp_path / "file" / "tilework") in caplog.text
    assert "NUMBA_CACHE_DIR" in str(jit.why_not_kept())


def test_where_object_code_cannot_be_made_numba_compiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with versions of numba or LLVM that do it in another way."""

    def fail(*_: object) -> None:
        msg = "no such pass"
        raise AttributeError(msg)

    monkeypatch.setattr("tilework.common.kernels.object_code_numba._entry", fail)
    for _ in range(2):
        assert sums(Kernel(MODULE, "add_pixels"), np.ones((2, 4), np.uint16)) == [4, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    assert "no such pass" in caplog.text
    assert not [*folder.glob("*.o")]


def test_where_nothing_can_be_loaded_nothing_is_at_hand(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in programs that are packed without what is known of their parts."""

    def fail(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", fail)
    object_code._makers.cache_clear()
    kernel = Kernel(MODULE, "add_pixels")
    frames = np.ones(8, dtype=np.uint16)
    assert not kernel.is_at_hand(frames, NATIVE, even_places(2, 4), 0, 2, 4, np.empty(0, np.uint32), np.zeros(2))
    assert sums(kernel, frames.reshape(2, 4)) == [4, 4]
    assert "PackageNotFoundError" in caplog.text
    assert not [*folder.glob("*.o")]


def test_a_kernel_that_takes_memory_of_numba_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would end the process of who loads it without numba; so numba calls it."""
    (folder.parents[1] / "greedy_numba.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            from tilework.common.kernels.jit import jit

            @jit
            def fill(out):
                scratch = np.empty(out.size)
                for i in range(out.size):
                    scratch[i] = i
                for i in range(out.size):
                    out[i] = scratch[out.size - 1 - i]
            """
        )
    )
    monkeypatch.syspath_prepend(str(folder.parents[1]))
    out = np.zeros(3)
    Kernel("greedy_numba", "fill")(out)
    assert out.tolist() == [2, 1, 0]
    assert "NRT_" in caplog.text
    assert not [*folder.glob("*.o")]


def test_arrays_of_another_kind_go_through_numba(folder: Path) -> None:
    """Machine code is for memory without gaps, which is aligned."""
    kernel = Kernel("tilework.common.kernels.variance_numba", "merge_sums")
    gaps, unaligned = np.arange(8.0)[::2], np.frombuffer(b"\0" + np.arange(4.0).tobytes(), np.uint8)[1:].view(float)
    total, deviations = np.zeros(4), np.zeros(4)
    kernel(0, total, deviations, 1, gaps, unaligned)
    assert total.tolist() == [0, 2, 4, 6]
    assert deviations.tolist() == [0, 1, 2, 3]
    assert not [*folder.glob("*.o")]


def test_bounds_are_checked_by_numba(folder: Path) -> None:
    assert run(PROGRAM, folder, NUMBA_BOUNDSCHECK="1") == f"{TOTAL} ['llvmlite', 'numba']"
    assert not [*folder.glob("*.o")]


def test_without_a_compiler_the_function_in_python_is_called(folder: Path) -> None:
    """One without vectors, which are not there in Python."""
    program = """
        import numpy as np
        from tilework.common.kernels.kernel import Kernel
        out = np.zeros(4)
        Kernel("tilework.common.kernels.variance_numba", "merge_sums")(0, out, out.copy(), 1, out + 1, out + 2)
        print(out.tolist())
    """
    assert run(program, folder, NUMBA_DISABLE_JIT="1") == "[1.0, 1.0, 1.0, 1.0]"
    assert not [*folder.glob("*.o")]


def test_threads_that_call_it_first_at_the_same_time(folder: Path) -> None:
    kernel = Kernel(MODULE, "add_pixels")
    frames = np.arange(4000, dtype=np.uint16).reshape(4, 1000)
    start = threading.Barrier(8)
    found: list[list[float]] = []

    def call() -> None:
        start.wait()
        found.append(sums(kernel, frames))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [frames.sum(axis=1).tolist()] * 8
    assert len([*folder.iterdir()]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_loads_a_kernel(folder: Path) -> None:
    """Here it is in the middle of an import, which nobody would ever end in the child."""
    (folder.parents[1] / "slow.py").write_text("import __main__, time\n__main__.begun.set()\ntime.sleep(0.5)\n")
    program = f"""
        import os, signal, sys, threading
        import numpy as np
        from tilework.common.kernels import object_code, sum_pixels
        sys.path.insert(0, {str(folder.parents[1])!r})
        begun = threading.Event()
        load = object_code.load
        def load_slowly(*arguments):
            import slow
            return load(*arguments)
        object_code.load = load_slowly
        def call(dtype):
            total = np.zeros(1)
            sum_pixels(np.ones((1, 8), dtype), total, compiled=True)
            return int(total[0])
        thread = threading.Thread(target=call, args=("u2",))
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(call("u1"))
        status = os.waitpid(child, 0)[1]
        thread.join()
        print(os.waitstatus_to_exitcode(status), call("i2"))
    """
    assert run(program, folder) == "8 8"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_loads_llvm_for_masks(folder: Path) -> None:
    """How many masks are taken at once depends on the CPU, which LLVM tells."""
    program = """
        import os, signal, sys, threading, time
        import numpy as np
        from tilework.common.kernels.dense import DenseMasks
        begun = threading.Event()
        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == "llvmlite":
                    begun.set()
                    time.sleep(0.5)
        sys.meta_path.insert(0, Slow())
        def call(dtype):
            total = np.zeros((1, 1))
            DenseMasks(np.ones((1, 1, 8)), np.dtype(dtype), np.dtype("f8"), compiled=True).apply(
                np.ones((1, 1, 8), dtype), total
            )
            return int(total[0, 0])
        thread = threading.Thread(target=call, args=("u2",))
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(call("u1"))
        status = os.waitpid(child, 0)[1]
        thread.join()
        print(os.waitstatus_to_exitcode(status), call("u2"))
    """
    assert run(program, folder) == "8 8"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_asks_llvm(folder: Path) -> None:
    """As numba does whenever it calls a function of a user, and a program that compiles by itself: LLVM has a lock."""
    program = """
        import os, signal, threading, time
        from llvmlite import binding as llvm
        from llvmlite.binding import ffi
        import tilework.common.kernels
        begun = threading.Event()
        def pause():
            if threading.current_thread() is thread:
                begun.set()
                time.sleep(0.5)
        ffi.register_lock_callback(pause, lambda: None)
        thread = threading.Thread(target=llvm.get_process_triple)
        thread.start()
        begun.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            llvm.get_process_triple()
            os._exit(8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bool(llvm.get_process_triple()))
    """
    assert run(program, folder) == "8 True"


def test_functions_that_kernels_may_call() -> None:
    """Those of C, and none that only this process has, because some library in it has them."""
    from tilework.common.kernels.object_code_numba import _is_of_c

    openblas = next((Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas*"))
    ctypes.CDLL(str(openblas), mode=ctypes.RTLD_GLOBAL)
    assert hasattr(ctypes.CDLL(None), "scipy_openblas_get_num_threads64_")
    assert [_is_of_c(name) for name in ("llvm.fma.f64", "memset", "log", "sqrtf")] == [True] * 4
    others = "scipy_openblas_get_num_threads64_", "PyErr_Clear", "NRT_Free", "numba_unpickle", "nobody_has_this"
    assert [_is_of_c(name) for name in others] == [False] * 5


def test_the_gil_is_released(folder: Path) -> None:
    """Another thread goes on while a kernel works: it ends first, though it begins later."""
    program = """
        import sys, threading
        import numpy as np
        from tilework.common.kernels.sums import _add_frames
        sys.setswitchinterval(1e9)  # nobody is asked to let go of it
        flat, out, scratch = np.ones(2**16, np.uint8), np.zeros(2**16), np.empty(2**16, np.uint32)
        _add_frames(flat, (), np.zeros(1, np.int64), 1, 0, 8, scratch, out, 2**16)
        out[:] = 0
        order = []
        other = threading.Timer(0.05, lambda: order.append("other"))
        other.start()
        _add_frames(flat, (), np.zeros(2**17, np.int64), 2**17, 0, 2**16, scratch, out, 2**16)
        order.append("kernel")
        other.join()
        print(order, int(out[0]))
    """
    assert run(program, folder) == "['other', 'kernel'] 131072"


def test_fields_of_an_array_are_where_numpy_has_them() -> None:
    data, shape = object_code.array_fields()
    assert 0 < data < shape < np.ndarray.__basicsize__
    tile = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)
    out = np.zeros((3, 4))
    sum_frames(tile, out, compiled=True)
    np.testing.assert_array_equal(out, tile.sum(axis=0))
