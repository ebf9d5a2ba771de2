"""Rows in class order against all class means."""
