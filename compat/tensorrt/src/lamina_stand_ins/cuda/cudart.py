"""CUDA's runtime under the name that it had before version 13."""

from cuda.bindings.runtime import *  # noqa: F403
