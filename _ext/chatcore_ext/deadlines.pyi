"""What happens when time runs out, for compiled code only (deadlines.pxd)."""
