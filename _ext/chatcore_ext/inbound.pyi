"""What a client's frame does, for compiled code only (inbound.pxd)."""
