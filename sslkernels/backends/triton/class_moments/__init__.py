"""Counts, means and scatter of classes."""
