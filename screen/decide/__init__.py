"""Statistics in, flags out."""
