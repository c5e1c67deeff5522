"""What all tests share: the compiled modules are really compiled, and property tests are not timed.

Fixtures of one topic live in the conftest.py of their folder or in tests/support.
"""

import importlib
import pkgutil
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
from hypothesis import settings

import chatcore_ext

# Machines are shared and instrumented builds are slow: a deadline for one example would only find that out.
settings.register_profile("chatcore", deadline=None, print_blob=True)
settings.load_profile("chatcore")


def pytest_sessionstart(session: pytest.Session) -> None:
    """A fallback that nobody meant to test must not stand in for the data plane."""
    for module in pkgutil.iter_modules(chatcore_ext.__path__):
        file = importlib.import_module(f"chatcore_ext.{module.name}").__file__ or ""
        if not file.endswith(tuple(EXTENSION_SUFFIXES)):
            pytest.exit(f"chatcore_ext.{module.name} is not compiled: {file}", returncode=3)
