"""Whether the tables of a hub agree, for compiled code only (invariants.pxd); Python calls `Hub.check_invariants()`."""
