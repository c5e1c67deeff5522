"""The numbers of constants.pxd under the same names for Python. Adds only what a C enum cannot hold."""

NO_ID = no_id()
UNKNOWN_ID = unknown_id()
