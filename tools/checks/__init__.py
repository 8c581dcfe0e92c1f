"""Checks that take more time, data or packages than a test may: `python tools/check.py NAME`."""
