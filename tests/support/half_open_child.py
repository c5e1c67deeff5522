"""A process that opens connections which never log in, holds them until its input ends, and cares for nothing.

Its own process: ten thousand of its descriptors and as many of the server's are more than one may have.
"""

import resource
import socket
import sys

FIRST_BYTES = (b"", b"\0", b"\0\0\x10\x01", b"\0\0\x10\x01chat")  # of a HELLO; that is all that ever comes


def main(port: int, n: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for i in range(n):
        held.append(socket.create_connection(("127.0.0.1", port)))
        try:
            held[-1].sendall(FIRST_BYTES[i % len(FIRST_BYTES)])
        except OSError:  # it has given way already
            pass
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
