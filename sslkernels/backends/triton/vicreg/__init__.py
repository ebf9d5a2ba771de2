"""VICReg: forward, gradient."""
