"""Unsent bytes of connections, for compiled code only (backlog.pxd)."""
