"""Imports NumPy to its end: after Ctrl-C in the middle, no later import of it in the same process would succeed.

Packages of ours that users import, and that need NumPy, import this first.
"""

from tilework.common.interrupts import interrupts_later

with interrupts_later():
    import numpy as np  # noqa: F401
