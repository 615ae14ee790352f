"""Kernels of the vendor's libraries, optional at run time: cuBLASLt and cuDNN.

The runtime half: it imports neither the compiler nor, before a plan asks for it, a library.
"""
