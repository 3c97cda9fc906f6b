"""tilework runs user-defined functions over every frame of pixelated STEM data, on one core, all cores, or a cluster.

How the package is laid out, from the top down. A line imports only lines below it; siblings joined by ``|`` never
import each other::

    cli                 the ``tilework`` command
    compat              programs that were written for other packages, run unchanged
    contrib             ways between tilework and other software
    api                 Context: load data, run functions, get results
    analysis            common evaluations, whose results come with titles and pictures
    viz                 pictures of results
    udf | executor      what is computed | where and how it is run
    corrections | masks of detectors and coordinates | virtual detectors: names that users import
    io                  datasets, their partitions and tiles; corrections; saved results
    common              shapes, slices, buffers, kernels, and the interfaces between all of the above
    utils               what the machine offers, simulated data, coordinates of lattices
    exceptions          one tree of errors

``udf`` and ``executor`` meet only in `tilework.common.executor`. `tilework.testing` holds the public contract suites
and is never imported at run time.
"""

__version__ = "0.1.0"
