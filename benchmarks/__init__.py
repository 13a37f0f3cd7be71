"""Timings, run by `make bench`; what they show is told in docs/performance.md."""
