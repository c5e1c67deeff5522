"""A hash table from 64-bit keys to pointers, for compiled code only (pointer_table.pxd)."""
