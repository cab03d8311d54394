"""Kernels that were compiled before they are needed: for an image without a compiler, and starts that wait for none."""
