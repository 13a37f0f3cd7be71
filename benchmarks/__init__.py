"""Timings, run by `make bench` and `make bench-gpu`; what they show is told in docs/performance.md."""
