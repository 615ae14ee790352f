"""Prints loop nests as Triton kernels."""
