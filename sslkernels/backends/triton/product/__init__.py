"""Tiled products: symmetric, plain, and what goes into and comes out of them."""
