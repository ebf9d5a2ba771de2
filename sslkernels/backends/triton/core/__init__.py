"""What every kernel shares: the device, launching, arithmetic, the choice of a tile."""
