"""How many frames and masks a CPU's registers hold, for compiled products with dense masks."""

from __future__ import annotations

from tilework.common.kernels.cpu import HAS_LONG_VECTORS

__all__ = ["FEW_MASKS", "FEW_MASKS_SWAPPED", "FRAMES", "HAS_PANELS", "MASKS_AT_ONCE", "PANEL_BYTES", "PANEL_FRAMES"]

# Up to so many masks, converting pixels for each is quicker than to keep them; the same where bytes are swapped for it.
FEW_MASKS = 5 if HAS_LONG_VECTORS else 11
FEW_MASKS_SWAPPED = 5 if HAS_LONG_VECTORS else 3
# Frames and masks that are taken together.
FRAMES = 4 if HAS_LONG_VECTORS else 3
MASKS_AT_ONCE = 4 if HAS_LONG_VECTORS else 2
# Whether many masks are quicker in panels, where a vector holds the same pixel of all of them.
HAS_PANELS = not HAS_LONG_VECTORS
# Frames that are multiplied with a panel at a time, and bytes of a mask: those pixels stay in the L1 cache.
PANEL_FRAMES = 6
PANEL_BYTES = 2 * 1024
