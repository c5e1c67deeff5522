"""The face of a load's connections to Python (load_sockets.pxd drives them)."""

from libc.stdint cimport uint32_t

from chatcore_ext.load_sockets cimport LoadSockets

cdef class LoadClients(LoadSockets):
    cdef int check_client(self, uint32_t client) except -1
    cdef list take_events(self)
