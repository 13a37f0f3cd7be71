"""Timings, run by `make bench` and `make bench-gpu`; what they show stands in docs/performance.md."""
