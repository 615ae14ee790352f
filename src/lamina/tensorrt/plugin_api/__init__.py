"""Plugins: layers that programs define themselves."""
