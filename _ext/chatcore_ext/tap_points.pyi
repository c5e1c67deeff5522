"""What is noted where, for compiled code only (tap_points.pxd)."""
