"""Programs that were written for other packages, run unchanged.

::

    libertem/     ``import libertem`` gives tilework
"""
