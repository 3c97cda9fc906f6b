"""Which array backend each function of a run gets: pure decisions, also for devices that this machine does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests_helpers import FrameMax
from tilework.common.array_backends import BACKENDS, CPU_BACKENDS, CUDA_BACKENDS
from tilework.common.shape import Shape
from tilework.exceptions import UDFException
from tilework.udf import UDF, ApplyMasksUDF, CoMUDF, LogsumUDF, PickUDF, StdDevUDF, SumSigUDF, SumUDF
from tilework.udf.backends import available_backends, execution_plan, get_resources_for_backends, plan_backends
from tilework.udf.plan import make_plan

ALL = UDF.BACKEND_ALL
FILES = ("numpy", "cuda")
CSR = "scipy.sparse.csr_matrix"
CSC = "scipy.sparse.csc_matrix"
COO = "sparse.COO"


def choose(*supported: tuple[str, ...], offered: tuple[str, ...] = FILES, **kwargs: Any) -> Any:
    return plan_backends(supported, offered, **kwargs)


def test_files_stay_numpy_whatever_a_function_prefers() -> None:
    plan = choose(ALL, (CSR, "numpy"), device_class="cpu")
    assert plan.dataset == "numpy"
    assert plan.udfs == ("numpy", "numpy")
    assert plan.conversions == ()
    assert not plan.is_sparse


def test_sparse_data_stays_sparse_where_all_functions_allow() -> None:
    offered = (CSR, CSC, "numpy")
    assert choose(ALL, ALL, offered=offered, device_class="cpu").udfs == (CSR, CSR)
    assert choose(ALL, offered=offered, device_class="cpu").is_sparse
    # One conversion serves both, rather than two different forms.
    assert choose(ALL, ("numpy",), offered=offered, device_class="cpu").udfs == ("numpy", "numpy")
    assert choose((CSC, "numpy"), (CSR,), (CSR,), offered=offered, device_class="cpu").udfs == (CSC, CSR, CSR)


def test_another_sparse_format_comes_before_a_dense_one() -> None:
    plan = choose(("numpy", CSC), offered=(CSR,), device_class="cpu")
    assert plan.udfs == (CSC,)
    assert plan.conversions == ((CSC, CSR),)


def test_what_only_one_function_can_use_is_made_from_the_cheapest() -> None:
    plan = choose(("numpy",), (CSR,), ("cuda",), ("sparse.DOK",), device_class="cpu")
    assert plan.dataset == "numpy"
    assert dict(plan.conversions)[CSR] in FILES
    assert plan.udfs == ("numpy", CSR, "cuda", "sparse.DOK")


def test_on_a_gpu_arrays_go_there_once() -> None:
    gpu = available_backends("cuda", has_cupy=True)
    plan = choose(ALL, ("numpy", "cupy"), device_class="cuda", available=gpu)
    assert plan.udfs == ("cupy", "cupy")
    assert plan.dataset in FILES
    assert plan.uses_cupy
    assert choose(("numpy",), device_class="cuda", available=gpu).udfs == ("numpy",)
    assert choose(("numpy", "cuda"), device_class="cuda", available=gpu).udfs == ("cuda",)
    sparse = choose(ALL, offered=(CSR, "numpy"), device_class="cuda", available=gpu)
    assert sparse.udfs == ("cupyx.scipy.sparse.csr_matrix",)


def test_without_cupy_a_gpu_worker_takes_numpy() -> None:
    without = available_backends("cuda", has_cupy=False)
    assert choose(ALL, device_class="cuda", available=without).udfs == ("numpy",)
    assert choose(("cupy", "cuda"), device_class="cuda", available=without).udfs == ("cuda",)
    assert not choose(ALL, device_class="cuda", available=without).uses_cupy


def test_a_cpu_worker_never_gets_what_needs_a_gpu() -> None:
    cpu = available_backends("cpu", has_cupy=True)
    with pytest.raises(RuntimeError, match="Could not find backends: cupy or cuda"):
        choose(("cupy", "cuda"), device_class="cpu", available=cpu)
    with pytest.raises(ValueError, match="'tensorflow': not a known array backend"):
        choose(("tensorflow",))
    with pytest.raises(ValueError, match="device class"):
        choose(ALL, device_class="tpu")
    with pytest.raises(ValueError, match="offers no array backend"):
        choose(ALL, offered=())


NAMES = st.lists(st.sampled_from(sorted(BACKENDS)), min_size=1, max_size=4, unique=True).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    supported=st.lists(NAMES, min_size=1, max_size=4).map(tuple),
    offered=NAMES,
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_every_plan_can_be_carried_out(supported: Any, offered: Any, device: str) -> None:
    """Everyone gets something supported, whose source exists before it, on its own kind of device where possible."""
    plan = plan_backends(supported, offered, device)
    have = [plan.dataset]
    assert plan.dataset in offered
    for target, source in plan.conversions:
        assert source in have
        have.append(target)
    assert len(set(have)) == len(have)
    native = CPU_BACKENDS if device == "cpu" else CUDA_BACKENDS
    for names, backend in zip(supported, plan.udfs, strict=True):
        assert backend in names
        assert backend in have
        assert backend in native or native.isdisjoint(names)


class FakeDataSet:
    dtype = np.dtype("u2")
    shape = Shape((4, 4, 8, 8), sig_dims=2)
    array_backends: Any = ("numpy", "cuda")

    def need_decode(self, read_dtype: Any, roi: Any, corrections: Any) -> bool:
        return roi is not None or corrections is not None or np.dtype(read_dtype) != self.dtype


def test_the_plan_of_a_dataset_groups_functions() -> None:
    udfs = [SumUDF(), FrameMax(), SumSigUDF()]
    dataset, groups = execution_plan(udfs, FakeDataSet(), "cpu")
    assert dataset == "numpy"
    assert dict(groups) == {"numpy": udfs}
    silent = FakeDataSet()
    silent.array_backends = None
    with pytest.raises(ValueError, match="array_backends is None"):
        execution_plan(udfs, silent)


@pytest.mark.parametrize(
    ("udfs", "allowed", "want"),
    [
        ([("numpy",)], None, {"compute": 1, "CPU": 1, "ndarray": 1}),
        ([ALL], None, {"compute": 1, "ndarray": 1}),
        (["numpy", ALL], None, {"compute": 1, "CPU": 1, "ndarray": 1}),
        ([("cupy",)], None, {"compute": 1, "CUDA": 1, "ndarray": 1}),
        ([("cuda",)], None, {"compute": 1, "CUDA": 1}),
        ([("numpy", "cuda")], (), {"compute": 1}),
        ([ALL], ("numpy",), {"compute": 1, "CPU": 1, "ndarray": 1}),
        ([ALL, ("cuda", "cupy")], ("cupy",), {"compute": 1, "CUDA": 1, "ndarray": 1}),
    ],
)
def test_resources(udfs: Any, allowed: Any, want: dict[str, int]) -> None:
    assert get_resources_for_backends(udfs, allowed) == want


def test_a_cpu_and_a_gpu_together_are_refused() -> None:
    with pytest.raises(ValueError, match="run them apart"):
        get_resources_for_backends([("numpy",), ("cupy",)])

    class OnGPU(FrameMax):
        def get_backends(self) -> Any:
            return self.BACKEND_CUPY

    with pytest.raises(UDFException, match=r"run them apart.*FrameMax can use numpy; OnGPU can use cupy"):
        make_plan([FrameMax(), OnGPU()], FakeDataSet())  # type: ignore[arg-type]


def test_the_dtype_is_the_same_on_every_kind_of_worker() -> None:
    """Backends that cannot hold it are left out, and it is promoted only where all of a kind of device need that."""

    class Native(FrameMax):
        def __init__(self, backends: Any) -> None:
            super().__init__(backends=backends)

        def get_backends(self) -> Any:
            return self.params.backends

        def get_preferred_input_dtype(self) -> Any:
            return self.USE_NATIVE_DTYPE

    def plan(backends: Any) -> Any:
        return make_plan([Native(backends)], FakeDataSet()).udfs[0]  # type: ignore[arg-type]

    everything = plan(ALL)
    assert everything.input_dtype == np.dtype("u2")
    assert "cupy" in everything.backends
    assert not any(b.startswith("cupyx") for b in everything.backends)
    only = plan((CSR, "cupyx.scipy.sparse.csr_matrix"))
    assert only.input_dtype == np.dtype("f4")
    assert only.backends == (CSR, "cupyx.scipy.sparse.csr_matrix")


def test_what_the_built_in_functions_support() -> None:
    masks = lambda: np.ones((2, 8, 8))  # noqa: E731
    everything = set(ALL)
    arrays = {b for b in ALL if b.startswith("scipy") and b.endswith("_array")}
    assert SumUDF().get_backends() == SumSigUDF().get_backends() == CoMUDF().get_backends() == ALL
    assert set(StdDevUDF().get_backends()) == {"numpy", "cupy"}
    assert set(LogsumUDF().get_backends()) == {"numpy", "cupy", "sparse.COO", "sparse.GCXS"}
    assert PickUDF().get_backends() == ("numpy",)
    assert set(ApplyMasksUDF(masks).get_backends()) == everything - arrays
    coo = {"scipy.sparse.coo_matrix", "cupyx.scipy.sparse.coo_matrix"}
    assert set(ApplyMasksUDF(masks, shifts=(1, 1)).get_backends()) == everything - arrays - coo
    assert ApplyMasksUDF(masks, backends=("numpy", CSR)).get_backends() == (CSR, "numpy")
