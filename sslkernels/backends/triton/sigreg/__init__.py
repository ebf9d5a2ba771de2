"""SIGReg: forward, gradient."""
