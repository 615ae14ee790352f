"""Kernels of the vendor's libraries, optional at run time: the half that the runtime needs."""
