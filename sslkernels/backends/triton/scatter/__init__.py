"""The pooled scatter matrix."""
