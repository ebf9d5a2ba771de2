"""Arithmetic that several layers share: below the passes, above nothing but torch."""
