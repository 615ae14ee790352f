"""Triton kernels; imported by the processes that compile them, and by no other code."""
