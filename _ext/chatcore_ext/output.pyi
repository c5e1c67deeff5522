"""What connections are to be sent this turn, for compiled code only (output.pxd)."""
