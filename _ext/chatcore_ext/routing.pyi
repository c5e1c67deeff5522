"""Who is here and who hears what, for compiled code only (routing.pxd)."""
