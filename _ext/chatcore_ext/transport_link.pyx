"""A connection of the hub on somebody else's transport (TLS, WebSocket); see transport_link.pyi."""

cimport cython

from chatcore_ext.hub cimport Hub


@cython.final
cdef class TransportLink:
    cdef:
        Hub hub
        object wake
        unsigned long long handle

    def __init__(self, Hub hub not None, wake):
        self.hub = hub
        self.wake = wake
        self.handle = 0

    @property
    def connection(self):
        return self.handle

    def connection_made(self, transport):
        self.handle = self.hub.open_transport(transport)
        self.wake()

    def get_buffer(self, Py_ssize_t sizehint):
        # One buffer for all: it is read in `buffer_updated`, before any other transport can be asked for one.
        return self.hub.receive_view

    def buffer_updated(self, size_t nbytes):
        self.hub.take_bytes(self.handle, self.hub.state.receive_buffer, nbytes)
        self.wake()

    def data_received(self, data not None):
        # asyncio's own loops read into a buffer only for subclasses of their BufferedProtocol.
        self.hub.receive(self.handle, data)
        self.wake()

    def eof_received(self):
        return False  # the transport closes itself

    def connection_lost(self, exc):
        self.hub.close_transport(self.handle)
        self.wake()

    def pause_writing(self):
        self.hub.set_writable(self.handle, False)

    def resume_writing(self):
        self.hub.set_writable(self.handle, True)
        self.wake()
