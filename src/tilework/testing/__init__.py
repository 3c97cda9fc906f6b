"""Public contract suites and fault injectors for writers of executors and datasets; never imported at run time."""
