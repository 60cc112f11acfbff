"""A lead's fields, normalised once for all vendors."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import phonenumbers

from leadctl.domain.masking import clean
from leadctl.domain.model import Lead

#: What may stand in SMTP's RCPT and in a vendor's e-mail field: no spaces, quotes, brackets or controls. A part
#: of the domain has no ASCII punctuation but inner hyphens; letters of any alphabet with their marks are allowed.
_LOCAL = r"[^\s@<>()\[\]\\,;:\"\x00-\x20\x7f-\x9f]{1,64}"
_NO_LABEL = r"\s\x00-\x2c\x2e\x2f\x3a-\x40\x5b-\x60\x7b-\x9f"
_LABEL = rf"[^{_NO_LABEL}-](?:[^{_NO_LABEL}]*[^{_NO_LABEL}-])?"
_EMAIL = re.compile(rf"{_LOCAL}@(?:{_LABEL}\.)+(?!\d){_LABEL}")
#: Texts that are remembered as read: every credential of a lead asks for the same ones.
_REMEMBERED = 1024

NO_EMAIL = "it has no e-mail address that can be used"
NO_WAY = "it has neither a phone number nor an e-mail address that can be used"

#: The short names that vendors use, by the key in ``leads.utm``.
UTM_KEYS = ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term")


def phone_e164(lead: Lead, region: str = "RU") -> str | None:
    """``+79990000001``, or None where the text is no possible phone number. Unprefixed ones are read in ``region``."""
    return _e164(lead.phone, region) if lead.phone else None


@lru_cache(_REMEMBERED)
def _e164(text: str, region: str) -> str | None:
    try:
        number = phonenumbers.parse(clean(text, 60), region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def phone_text(lead: Lead) -> str:
    """The phone as E.164 where it can be read, else as the lead wrote it (cleaned)."""
    return phone_e164(lead) or clean(lead.phone, 60)


@lru_cache(_REMEMBERED)
def is_email(text: str) -> bool:
    """Whether the text is one address and nothing else (international ones included)."""
    plain = len(text) <= 254 and clean(text) == text and ".." not in text and not text.startswith(".")
    return plain and bool(_EMAIL.fullmatch(text))


def email_address(lead: Lead) -> str | None:
    """The lead's address, or None where it is none."""
    text = lead.email.strip()
    return text if is_email(text) else None


def without_email(lead: Lead) -> Sequence[str]:
    """``problems`` of a channel that needs an address."""
    return () if email_address(lead) else (NO_EMAIL,)


def without_ways(lead: Lead) -> Sequence[str]:
    """``problems`` of a channel that needs an address or a phone number. The phone, dear to read, comes last."""
    return () if email_address(lead) or phone_e164(lead) else (NO_WAY,)


def split_name(lead: Lead) -> tuple[str, str]:
    """First and last name: the first word, and the rest."""
    first, _, last = clean(lead.name, 200).partition(" ")
    return first, last


def utm(lead: Lead) -> Mapping[str, str]:
    """The five UTM values that are there, by their usual keys, cleaned."""
    return {key: clean(lead.utm[key], 255) for key in UTM_KEYS if lead.utm.get(key)}


def answers_text(lead: Lead) -> str:
    """``question: answer`` lines."""
    return "\n".join(f"{clean(a.question, 200)}: {clean(a.answer, 2000)}" for a in lead.answers)


def multiline(text: str, limit: int) -> str:
    """A long text with its line breaks kept, every line cleaned, cut to ``limit`` characters."""
    lines = [clean(line, limit) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    whole = "\n".join(lines).strip()
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


def remarks(lead: Lead, labels: Mapping[str, str]) -> str:
    """What a CRM has no field of its own for: comment, answers, page, other tags, and an address that is none."""
    usual = utm(lead)
    tags = [f"{clean(key, 100)}={clean(value, 255)}" for key, value in lead.utm.items() if key not in usual]
    labelled = {
        "page_url": clean(lead.page_url, 2000),
        "email": "" if email_address(lead) else clean(lead.email, 255),
        "utm": ", ".join(tags),
    }
    parts = [multiline(lead.comment, 100_000), answers_text(lead)]
    parts += [f"{labels[label]}: {text}" for label, text in labelled.items() if text]
    return "\n\n".join(part for part in parts if part.strip(": \n"))
