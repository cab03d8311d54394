"""Ahead-of-time compilation: what the kernels become on each GPU, seen without one. `python -m octavo_kernels.aot`."""
