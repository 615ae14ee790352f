"""backends reference stage."""
