"""The check of a load's deliveries, for compiled code only (load_tables.pxd)."""
