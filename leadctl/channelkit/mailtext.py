"""An e-mail as bytes. Every header value is encoded here, so that nothing of a lead can become a header.

``email.message`` is not used on purpose: its default policies decode encoded words inside a value, and a name
like ``A=?UTF-8?Q?=0A?=Bcc: x`` came out as a real ``Bcc`` (https://github.com/python/cpython/issues/121650).
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from leadctl.channelkit.fields import is_email
from leadctl.domain.errors import Rejected
from leadctl.domain.masking import clean

#: The only header names that are ever written.
HEADER_NAMES = (
    "From", "To", "Reply-To", "Subject", "Date", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
    "X-Lead-Id", "MIME-Version", "Content-Type",
)  # fmt: skip
#: RFC 2047: one line of a header that holds an encoded word.
_LINE = 76
#: RFC 5322: octets of a line, without its CR LF.
_LONGEST_LINE = 998
#: Text octets in one encoded word: "Message-ID: " and the word still fit into one line.
_WORD = 39
_MOST_TEXT = 200
_KEY = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address, its domain as it is written on the wire, and the name shown beside it."""

    address: str
    name: str = ""

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Letter:
    """What one message says. ``key`` makes the boundary, so that each attempt has the same bytes."""

    key: str
    sender: Mailbox
    to: Sequence[str]
    reply_to: str | None
    subject: str
    date: datetime
    lead_id: str
    text: str
    html: str


def wire_address(address: str) -> str | None:
    """The address with its domain in IDNA; None where it cannot be written into a command or a header."""
    local, _, domain = address.rpartition("@")
    try:
        wire = f"{local}@{domain.encode('idna').decode('ascii').lower()}"
        wire.encode("utf-8")
    except UnicodeError:
        return None
    # IDNA maps look-alikes of "@", "," and "." to the real ones: what comes out is checked again.
    return wire if is_email(wire) else None


def parse_mailbox(text: str) -> Mailbox | None:
    """``Sales <leads@example.org>`` or the bare address; None where it is neither."""
    match = re.fullmatch(r' *(?:"?(?P<name>[^"<>\x00-\x1f\x7f]*?)"? *<(?P<inner>[^<>]+)>|(?P<bare>[^<>]+?)) *', text)
    if match is None:
        return None
    address = wire_address(match["inner"] or match["bare"])
    return Mailbox(address, clean(match["name"] or "", _MOST_TEXT)) if address else None


def message_id(key: str, domain: str) -> str:
    """A pure function of the delivery's key. Hashed where the key is no dot-atom or would be too long: an
    unfoldable long token trips folding bugs of relays."""
    if not _KEY.fullmatch(key) or len(key) + len(domain) > _LINE - len("Message-ID: <@>"):
        key = f"lc-{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:32]}"
    return f"<{key}@{domain}>"


def encoded_words(text: str) -> list[str]:
    """The text as base64 encoded words, cut between characters."""
    words = [b""]
    for char in text:
        octets = char.encode("utf-8", "replace")
        if len(words[-1]) + len(octets) > _WORD:
            words.append(b"")
        words[-1] += octets
    return [f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words if word]


def plain_text(text: str) -> str:
    """A body: line breaks and tabs kept, other control and direction characters replaced."""
    return _CONTROL.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))


def write_letter(letter: Letter) -> bytes:
    """The whole message with CR LF line ends, each line within the limits, the body base64.

    A non-ASCII local part in ``to`` is written as UTF-8: such a message needs SMTPUTF8.
    """
    boundary = f"=_{hashlib.sha256(letter.key.encode('utf-8', 'replace')).hexdigest()[:32]}"
    head = _checked([*_headers(letter, boundary)])
    parts = [_part("plain", letter.text), _part("html", letter.html)]
    body = b"".join(f"--{boundary}\r\n".encode() + part for part in parts)
    return head + b"\r\n\r\n" + body + f"--{boundary}--\r\n".encode()


def _headers(letter: Letter, boundary: str) -> Iterator[str]:
    sender = letter.sender
    words = encoded_words(clean(sender.name, _MOST_TEXT))
    yield _folded("From", [*words, f"<{sender.address}>"] if words else [sender.address])
    yield _folded("To", [f"{address}," for address in letter.to[:-1]] + [letter.to[-1]])
    if letter.reply_to is not None:
        yield _folded("Reply-To", [letter.reply_to])
    yield _folded("Subject", encoded_words(clean(letter.subject, _MOST_TEXT)))
    yield _folded("Date", [format_datetime(letter.date.astimezone(UTC))])
    yield _folded("Message-ID", [message_id(letter.key, sender.domain)])
    yield _folded("Auto-Submitted", ["auto-generated"])
    yield _folded("X-Auto-Response-Suppress", ["All"])
    yield _folded("X-Lead-Id", [letter.lead_id] if _KEY.fullmatch(letter.lead_id) else encoded_words(letter.lead_id))
    yield _folded("MIME-Version", ["1.0"])
    yield f'Content-Type: multipart/alternative;\r\n boundary="{boundary}"'


def _folded(name: str, tokens: Sequence[str]) -> str:
    """``Name: token token``, folded between tokens."""
    lines = [f"{name}:"]
    for position, token in enumerate(tokens):
        if position and len(lines[-1]) + 1 + len(token) > _LINE:
            lines.append("")
        lines[-1] += f" {token}"
    return "\r\n".join(lines)


def _checked(headers: Sequence[str]) -> bytes:
    """The header block, if every line begins with a known name or is a continuation, and each name comes once."""
    lines = "\r\n".join(headers).split("\r\n")
    names = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    whole = all(
        line.strip() and line.isprintable() and len(line.encode("utf-8", "replace")) <= _LONGEST_LINE
        for line in lines
    )  # fmt: skip
    if not whole or len(names) != len(set(names)) or not set(names) <= set(HEADER_NAMES):
        raise Rejected("the headers of the message cannot be written safely for this lead", vendor_code="headers")
    return "\r\n".join(lines).encode("utf-8", "replace")


def _part(kind: str, text: str) -> bytes:
    octets = text.replace("\n", "\r\n").encode("utf-8", "replace")
    head = f'Content-Type: text/{kind}; charset="utf-8"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return head.encode() + base64.encodebytes(octets).replace(b"\n", b"\r\n")
