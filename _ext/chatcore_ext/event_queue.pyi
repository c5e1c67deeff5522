"""What a turn has for Python, for compiled code only (event_queue.pxd)."""
