"""Masks for virtual detectors: discs, rings, gradients, radial bins, templates."""

from __future__ import annotations

from tilework.common.mask_stacks import (
    radial_fourier,
    sparse_circular_multi_stack,
    sparse_template_multi_stack,
)
from tilework.common.masks import (
    _make_circular_mask,
    background_subtraction,
    balance,
    bounding_radius,
    circular,
    gradient_x,
    gradient_y,
    polar_map,
    radial_bins,
    radial_gradient,
    radial_gradient_background_subtraction,
    rectangular,
    ring,
)
from tilework.common.sparse import is_sparse, to_dense, to_sparse

__all__ = [
    "_make_circular_mask",
    "background_subtraction",
    "balance",
    "bounding_radius",
    "circular",
    "gradient_x",
    "gradient_y",
    "is_sparse",
    "polar_map",
    "radial_bins",
    "radial_fourier",
    "radial_gradient",
    "radial_gradient_background_subtraction",
    "rectangular",
    "ring",
    "sparse_circular_multi_stack",
    "sparse_template_multi_stack",
    "to_dense",
    "to_sparse",
]
