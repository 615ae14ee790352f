"""Layouts of weights that kernels read; imports no compiler, so that a refit can make them."""
