"""From one frame to all who hear a channel, for compiled code only (fanout.pxd)."""
