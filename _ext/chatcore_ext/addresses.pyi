"""Connections by remote address, for compiled code only (addresses.pxd)."""
