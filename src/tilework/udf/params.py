"""What all tasks of a run share: scattered to the workers once; what is made of it there is made once as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tilework.io.dataset.tiling_scheme import TilingScheme
    from tilework.udf.run_plan import RunPlan

__all__ = ["RunCache", "UDFParams"]

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class RunCache(Cache):
    """What is computed once per process and run, and shared by the run's tasks there.

    Owned by the run's parameters: it lives as long as they are scattered.
    """


class UDFParams:
    """What all tasks of a run share; scattered to the workers once.

    Parameters
    ----------
    kwargs
        The parameters of each UDF, in the order of the run.
    roi
        Selected scan positions, flat or of nav shape, or None.
    corrections
        Detector corrections, or None.
    tiling_scheme
        How partitions are cut.
    plan
        What each UDF gets; None only for parameters that never run.
    classes
        The classes of the UDFs. They are here and not in the tasks, because a class of a notebook or script is sent
        whole, and need not be sent with every task.
    """

    def __init__(
        self,
        kwargs: Sequence[Mapping[str, Any]],
        roi: BoolArray | None,
        corrections: Any,
        tiling_scheme: TilingScheme | None,
        plan: RunPlan | None = None,
        classes: Sequence[type[Any]] = (),
    ) -> None:
        self.classes = tuple(classes)
        self._current: tuple[list[dict[str, Any]], RunCache] = ([dict(k) for k in kwargs], RunCache())
        self._roi = roi
        self._corrections = corrections
        self._tiling_scheme = tiling_scheme
        self._plan = plan

    @classmethod
    def from_udfs(
        cls,
        udfs: Sequence[Any],
        roi: BoolArray | None,
        corrections: Any = None,
        tiling_scheme: TilingScheme | None = None,
        plan: RunPlan | None = None,
    ) -> UDFParams:
        """Collect the parameters of `udfs`."""
        return cls([udf._kwargs for udf in udfs], roi, corrections, tiling_scheme, plan, [type(udf) for udf in udfs])

    def current(self) -> tuple[list[dict[str, Any]], RunCache]:
        """Return the parameters of each UDF, and what tasks make of them, as they belong together.

        A task asks once, and keeps both: what it makes of parameters that are changed meanwhile is not for later tasks.
        """
        return self._current

    @property
    def kwargs(self) -> list[dict[str, Any]]:
        """The parameters of each UDF."""
        return self._current[0]

    @property
    def cache(self) -> RunCache:
        """What is made of them."""
        return self._current[1]

    @property
    def roi(self) -> BoolArray | None:
        """Selected scan positions."""
        return self._roi

    @property
    def corrections(self) -> Any:
        """Detector corrections."""
        return self._corrections

    @property
    def tiling_scheme(self) -> TilingScheme:
        """How partitions are cut."""
        if self._tiling_scheme is None:
            msg = "these parameters have no tiling scheme, so nothing can be run with them"
            raise ValueError(msg)
        return self._tiling_scheme

    @property
    def plan(self) -> RunPlan:
        """What each UDF gets."""
        if self._plan is None:
            msg = "these parameters have no plan, so nothing can be run with them"
            raise ValueError(msg)
        return self._plan

    def patch(self, patch: Sequence[Mapping[str, Any]]) -> None:
        """Change parameters: one mapping per UDF, with only what changes. Tasks that start later see it.

        Raises
        ------
        ValueError
            When there is not one mapping per UDF.
        """
        kwargs = self.kwargs
        if len(patch) != len(kwargs):
            msg = f"parameters must be given for each of the {len(kwargs)} UDFs of the run, got {len(patch)}"
            raise ValueError(msg)
        # New ones, at once: a task that runs now keeps those it started with.
        self._current = [{**old, **new} for old, new in zip(kwargs, patch, strict=True)], RunCache()
