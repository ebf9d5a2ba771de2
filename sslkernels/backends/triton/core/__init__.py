"""What every kernel shares: the device, launching, arithmetic, tiles."""
