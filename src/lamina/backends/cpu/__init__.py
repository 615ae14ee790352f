"""backends cpu stage."""
