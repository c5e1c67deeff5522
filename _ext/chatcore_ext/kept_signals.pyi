"""Signals for receivers that lag, for compiled code only (kept_signals.pxd)."""
