"""Connections that have not said HELLO, for compiled code only (half_open.pxd)."""
