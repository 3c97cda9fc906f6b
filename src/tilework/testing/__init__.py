"""Public contract suites and fault injectors, for those who write an executor or a dataset; never imported at run time."""
