"""The sockets of a worker in one epoll set, for compiled code only (reactor.pxd)."""
