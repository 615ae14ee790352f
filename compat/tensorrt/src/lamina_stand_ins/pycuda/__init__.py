"""Stand-in for PyCUDA on ``cuda.bindings.runtime``."""
