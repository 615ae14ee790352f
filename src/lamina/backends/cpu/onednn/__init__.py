"""backends cpu onednn stage."""
