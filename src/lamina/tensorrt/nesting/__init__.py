"""Whole networks as graphs: loops and conditionals become nested graphs."""
