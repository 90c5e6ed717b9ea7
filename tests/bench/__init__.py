"""Benchmarks: commands that print ratios, `python -m tests.bench.NAME`."""
