"""Triton kernels for GPUs. Import this package only where it is used: Triton takes a second to import."""
