"""Output that waits for the window's end, for compiled code only (flush_window.pxd)."""
