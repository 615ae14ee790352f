"""Kernels for CPUs as LLVM text, compiled to objects and linked to one code image."""
