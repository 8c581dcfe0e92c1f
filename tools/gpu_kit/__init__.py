"""The sections of tools/gpu.py. Each has `run(options, save)`, which calls save(results) when it has more."""
