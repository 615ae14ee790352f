"""The small types that everything else is made of."""
