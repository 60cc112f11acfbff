"""What a test needs of the machine and may not find: a server, a shell, an interpreter of another language."""

import os
from typing import NoReturn

import pytest


def leave_out(reason: str) -> NoReturn:
    """Skip where somebody works without it, who cannot always install it; in CI, where nothing may be missing, fail.

    The only skip of the tests. ``reason`` says what is missing and how to get it.
    """
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)  # on a machine of somebody's own only: in CI this line is never reached
