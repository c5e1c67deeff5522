"""What a hub counts, for compiled code only (counters.pxd); Python reads `Hub.counters()`."""
