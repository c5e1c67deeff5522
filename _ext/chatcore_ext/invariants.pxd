"""Walks all tables of a hub and says where two of them disagree. For tests: costs time in proportion to everything."""

from chatcore_ext.hub_state cimport HubState

# Raises AssertionError.
cdef int check_hub(HubState* hub) except -1
