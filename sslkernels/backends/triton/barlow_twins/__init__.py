"""Barlow Twins: forward, gradient."""
