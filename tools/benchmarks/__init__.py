"""Measurements of speed and memory: `python tools/benchmark.py NAME`."""
