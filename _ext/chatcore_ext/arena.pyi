"""Memory of one turn, for compiled code only (arena.pxd)."""
