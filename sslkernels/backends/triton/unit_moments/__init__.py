"""Column moments of unit rows."""
