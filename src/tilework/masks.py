"""Masks for virtual detectors: discs, rings, gradients, radial bins, templates; see `tilework.common.masks`."""

from __future__ import annotations

from tilework.common.masks import (
    _make_circular_mask,
    background_subtraction,
    balance,
    bounding_radius,
    circular,
    gradient_x,
    gradient_y,
    is_sparse,
    polar_map,
    radial_bins,
    radial_fourier,
    radial_gradient,
    radial_gradient_background_subtraction,
    rectangular,
    ring,
    sparse_circular_multi_stack,
    sparse_template_multi_stack,
    to_dense,
    to_sparse,
)

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
