"""Server processes for the fault tests."""

from support.server_fixtures import make_server

__all__ = ["make_server"]
