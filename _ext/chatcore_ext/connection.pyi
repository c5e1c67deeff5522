"""One connection, for compiled code only (connection.pxd)."""
