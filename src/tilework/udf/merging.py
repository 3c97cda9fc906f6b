"""How `UDF.merge` is called: with which arguments, and what the UDF sees meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tilework.common.buffers import AuxBufferWrapper
from tilework.exceptions import UDFException, ended_iteration
from tilework.udf.checks import describe_arrays, merges_by_name
from tilework.udf.data import MergeAttrMapping, clear_views, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.udf.base import UDF

__all__ = ["merge_part"]

Array = np.ndarray[Any, np.dtype[Any]]


def merge_part(udf: UDF, dest: Mapping[str, Array], src: MergeAttrMapping, start: int, stop: int, where: str) -> None:
    """Put the results of one partition into those of the whole.

    Meanwhile ``self.results`` and auxiliary data of kind nav are those of the partition.

    Parameters
    ----------
    udf
        Main-side instance.
    dest
        The whole by name; of nav results the part of this partition.
    src
        Results of the partition.
    start, stop
        First and one-past-last position of the partition, in selected positions.
    where
        The partition, for errors.
    """
    show(udf.results, dest)
    aux = {
        name: value.get_view_for_dataset()[start:stop]
        for name, value in udf._kwargs.items()
        if isinstance(value, AuxBufferWrapper) and value.kind == "nav"
    }
    if aux:
        show(udf.params, aux)
    try:
        # Arguments go by name where the method has these names, in whatever order.
        if merges_by_name(udf):
            udf.merge(dest=MergeAttrMapping(dest), src=src)
        else:
            udf.merge(MergeAttrMapping(dest), src)
    except StopIteration as e:
        error = UDFException(ended_iteration(f"merge of {type(udf).__name__}", e))
        error.add_note(f"in merge of {type(udf).__name__}, {where}")
        raise error from e
    except Exception as e:
        e.add_note(f"in merge of {type(udf).__name__}, {where}")
        if isinstance(e, ValueError | TypeError):
            e.add_note(f"dest is there: {describe_arrays(dest)}")
            e.add_note(f"src is there: {describe_arrays(vars(src))}")
            if any(name in dest and array.shape != dest[name].shape for name, array in vars(src).items()):
                e.add_note("shapes of results must not depend on parameters that are changed during a run")
        raise
    finally:
        udf.results.clear_views()
        if aux:
            clear_views(udf.params)
