"""Stand-ins for the packages below ``cuda``."""
