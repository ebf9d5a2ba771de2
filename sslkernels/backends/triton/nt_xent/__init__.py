"""NT-Xent: forward, gradient."""
