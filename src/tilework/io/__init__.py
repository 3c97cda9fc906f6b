"""Datasets, their partitions and tiles; saved results."""
