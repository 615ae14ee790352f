"""NVIDIA GPUs: Triton kernels compiled ahead of time, launched through the CUDA driver."""
