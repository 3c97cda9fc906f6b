"""Buffers of results and auxiliary data: arrays whose leading axes are the scan, the detector, or neither.

A *nav* buffer has one entry per scan position, a *sig* buffer one per detector pixel, a *single* buffer neither; each
entry may have further axes (``extra_shape``). Inside, the scan axes are flat and, with a region of interest,
compressed to the selected positions in C order; outside (`BufferWrapper.data`) they have the shape of the scan again.

All that users' programs import of buffers, and of the memory and masks that belong to them, is imported from here.
"""

from __future__ import annotations

from tilework.common.allocation import BufferPool, ManagedBuffer, bytes_aligned, empty_aligned, zeros_aligned
from tilework.common.arrays import fill_value, reshaped_view, to_numpy, zeros
from tilework.common.buffers.auxiliary import AuxBufferWrapper
from tilework.common.buffers.placeholder import PlaceholderBufferWrapper
from tilework.common.buffers.validity import (
    ArrayWithMask,
    InvalidMaskError,
    get_bbox,
    get_bbox_2d,
    get_bbox_slice,
    get_inner_slice,
)
from tilework.common.buffers.wrapper import BufferKind, BufferUse, BufferWrapper, PreallocBufferWrapper
from tilework.common.slice import disjoint

__all__ = [
    "ArrayWithMask",
    "AuxBufferWrapper",
    "BufferKind",
    "BufferPool",
    "BufferUse",
    "BufferWrapper",
    "InvalidMaskError",
    "ManagedBuffer",
    "PlaceholderBufferWrapper",
    "PreallocBufferWrapper",
    "bytes_aligned",
    "disjoint",
    "empty_aligned",
    "fill_value",
    "get_bbox",
    "get_bbox_2d",
    "get_bbox_slice",
    "get_inner_slice",
    "reshaped_view",
    "to_numpy",
    "zeros",
    "zeros_aligned",
]
