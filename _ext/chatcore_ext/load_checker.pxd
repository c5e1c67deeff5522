"""Python's door to the check of a load's deliveries (load_tables.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from chatcore_ext.load_tables cimport LoadMembership, LoadTables

cdef class LoadChecker:
    cdef LoadTables tables

    cdef LoadMembership* membership_at(self, uint32_t client, uint32_t slot) except NULL
    cdef int check_message(self, uint32_t message) except -1
    cdef int add_membership(self, uint32_t client, uint32_t channel) except -1
    cdef int outcome(self, int result, uint32_t slot) except -2
    cdef object swapped_sends(self)
    cdef uint64_t delivered_refused(self) noexcept
