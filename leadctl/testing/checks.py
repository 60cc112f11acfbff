# ruff: noqa: S101 checks of a test suite assert
"""What is looked for in the texts and requests of a channel."""

import json
import traceback
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl

from leadctl.channelkit.http import HttpRequest
from leadctl.testing.hostile import RENDERED


def long_enough(secrets: Iterable[str]) -> Iterator[str]:
    """Those that are searched for at all (``leadctl.domain.masking.Secrets``)."""
    return (secret for secret in secrets if len(secret) >= 6)


def everything_of(error: BaseException) -> str:
    """All that an error could show: its texts, its details, its traceback."""
    details = [repr(value) for value in vars(error).values()]
    return "\n".join([str(error), repr(error), *details, *traceback.format_exception(error)])


def assert_well_formed(request: HttpRequest) -> None:
    """The body is what its content type says, and nothing of a lead became a header, a URL or a template."""
    text = request.content.decode()
    assert RENDERED not in text, "a lead's text was rendered as a template"
    kind = request.headers.get("Content-Type", "")
    if "json" in kind:
        json.loads(text)
    elif "form-urlencoded" in kind:
        parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    for value in (request.url, request.method, *request.headers, *request.headers.values()):
        assert value.isascii(), "a header or the URL is not encoded"
        assert value.isprintable(), "a header or the URL holds a control character"
    assert " " not in request.url, "the URL holds a space"
