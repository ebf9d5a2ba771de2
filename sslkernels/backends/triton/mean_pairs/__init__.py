"""Sums over pairs of class means."""
