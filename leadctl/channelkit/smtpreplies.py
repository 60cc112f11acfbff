"""What an SMTP refusal means: by its digit, then its codes, then, where servers give no code, its words."""

import re
from collections.abc import Mapping

from leadctl.channelkit.smtp import Phase, Refused, Reply
from leadctl.domain.errors import DeliveryError, LimitReached, Rejected, Throttled, Transient, Unusable

#: Log-in, sender or client refused, whatever the lead.
_UNUSABLE_CODES = frozenset({530, 534, 535, 538})
_UNUSABLE_ENHANCED = frozenset({"5.7.3", "5.7.8", "5.7.9", "5.7.14", "5.7.26", "5.7.30", "5.7.57", "5.7.60", "5.7.139"})
_UNTIL_LOGIN = frozenset({Phase.CONNECT, Phase.HELLO, Phase.STARTTLS, Phase.AUTH})


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: Codes, words, and what they mean together. A text makes no success, and an unknown one changes nothing.
TEXTS: tuple[tuple[frozenset[int], re.Pattern[str], type[DeliveryError]], ...] = (
    (frozenset({550, 553, 554}), _words(r"not owned by|sender address rejected|send as this sender"), Unusable),
    (frozenset({550}), _words(r"message sending for this account is disabled"), Unusable),
    (
        frozenset({550, 554}),
        _words(
            r"quota|too (?:many (?:messages|mails|recipients)|much mail)|\blimit\b|\btry (?:again|later)\b|\brate\b"
        ),
        LimitReached,
    ),
    (frozenset({421, 450, 451, 452}), _words(r"\brate\b|too m(?:any|uch)|\blimit\b"), Throttled),
)
#: Enhanced codes about the recipient's mailbox or the message's size: "over quota" there is no quota of ours.
_NOT_OUR_QUOTA = ("5.1.", "5.2.", "5.3.")
_SUBJECTS: Mapping[Phase, str] = {
    Phase.CONNECT: "connection",
    Phase.HELLO: "connection",
    Phase.STARTTLS: "encryption",
    Phase.AUTH: "log-in",
    Phase.MAIL: "sender",
    Phase.RCPT: "recipients",
    Phase.DATA: "message",
    Phase.DOT: "message",
    Phase.RESET: "reset",
}


def read_refusal(refused: Refused, host: str, said: str, recipient: str = "") -> DeliveryError:
    """The error for a 4xx or 5xx; ``said`` is the reply as it may be shown. Pure."""
    phase, reply = refused.phase, refused.reply
    whom = f"the recipient {recipient}" if recipient else f"the {_SUBJECTS[phase]}"
    message = f"{host} refused {whom}: {said}"
    kind = _kind(phase, reply)
    if kind is Unusable and phase is Phase.AUTH:
        message += " (many providers want an app password here)"
    return kind(message, vendor_code=reply.vendor_code, answer=said)


def is_one_too_many(reply: Reply) -> bool:
    """Whether this recipient is only one too many for this transaction."""
    return reply.code == 452 and reply.enhanced in ("4.5.3", "")


def _kind(phase: Phase, reply: Reply) -> type[DeliveryError]:
    return _for_now(phase, reply) if reply.code < 500 else _for_good(phase, reply)


def _for_now(phase: Phase, reply: Reply) -> type[DeliveryError]:
    if reply.code == 421 and reply.enhanced == "4.7.0":
        return Throttled
    # At RCPT it is that recipient who is busy or greylisted, not we who are too fast.
    if phase is Phase.RCPT and reply.code != 421:
        return Transient
    return _by_words(reply) or Transient


def _for_good(phase: Phase, reply: Reply) -> type[DeliveryError]:
    if phase in _UNTIL_LOGIN or reply.code in _UNUSABLE_CODES or reply.enhanced in _UNUSABLE_ENHANCED:
        return Unusable
    if reply.enhanced == "5.4.5":
        return LimitReached
    if (reply.code, reply.enhanced) == (553, "5.7.1"):
        return Unusable
    by_words = _by_words(reply)
    if by_words is LimitReached and reply.enhanced.startswith(_NOT_OUR_QUOTA):
        by_words = None
    if phase is Phase.MAIL and reply.code != 552:  # nothing of the lead is in MAIL but its size
        return by_words or Unusable
    return by_words or Rejected


def _by_words(reply: Reply) -> type[DeliveryError] | None:
    return next((kind for codes, words, kind in TEXTS if reply.code in codes and words.search(reply.text)), None)
