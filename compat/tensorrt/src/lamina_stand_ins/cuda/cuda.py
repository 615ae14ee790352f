"""CUDA's driver under the name that it had before version 13."""

from cuda.bindings.driver import *  # noqa: F403
