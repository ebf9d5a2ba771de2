"""The backends, each a package that says which passes it serves: ``passes/selection.py``."""
