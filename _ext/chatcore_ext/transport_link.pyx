"""A connection of the hub on somebody else's transport (TLS, WebSocket); see transport_link.pyi."""

cimport cython

from chatcore_ext.constants cimport TRANSPORT_HIGH_WATER, TRANSPORT_LOW_WATER
from chatcore_ext.hub cimport Hub


@cython.final
cdef class TransportLink:
    cdef:
        Hub hub
        object wake
        object transport           # None: not made yet, or lost
        object give_up             # None: there is no transport to wait for
        readonly str peer_address
        unsigned long long handle
        bint is_open               # the hub has been told
        bint is_closed             # the hub is through with it

    def __init__(self, Hub hub not None, wake, str peer_address not None=""):
        self.hub = hub
        self.wake = wake
        self.peer_address = peer_address
        self.transport = None
        self.give_up = None
        self.handle = 0

    @property
    def connection(self):
        return self.handle

    def open(self, give_up=None):
        self.is_open = True
        self.give_up = give_up
        self.handle = self.hub.open_transport(self, self.peer_address)
        self.wake()
        return self.hub.is_known(self.handle)

    # --- what the transport tells ---

    def connection_made(self, transport not None):
        self.transport = transport
        self.give_up = None
        if self.is_closed:
            transport.abort()
            return
        transport.set_write_buffer_limits(TRANSPORT_HIGH_WATER, TRANSPORT_LOW_WATER)
        if not self.is_open:
            self.open()
            if self.handle == 0:
                transport.abort()

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
        self.transport = None
        self.give_up = None
        self.is_closed = True
        self.hub.close_transport(self.handle)
        self.wake()

    def pause_writing(self):
        self.hub.set_writable(self.handle, False)

    def resume_writing(self):
        self.hub.set_writable(self.handle, True)
        self.wake()

    # --- what the hub does with it ---

    def write(self, bytes data not None):
        if self.transport is not None:
            self.transport.write(data)

    def close(self):
        self.is_closed = True
        if self.transport is None:
            self.wait_no_longer()
        elif self.transport.can_write_eof():
            # To close it now might reset the connection and take the last bytes with it: the peer hangs up, or the hub
            # aborts it after a while. TLS has an end of its own that waits for the peer's.
            self.transport.write_eof()
        else:
            self.transport.close()

    def abort(self):
        self.is_closed = True
        if self.transport is None:
            self.wait_no_longer()
        else:
            self.transport.abort()

    cdef int wait_no_longer(self) except -1:
        cdef object give_up = self.give_up
        self.give_up = None
        if give_up is not None:
            give_up()
        return 0
