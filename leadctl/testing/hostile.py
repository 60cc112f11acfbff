"""Leads whose texts try to become something else: markup, a header, a formula, a template, a command."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from leadctl.domain.model import Answer

#: What ``TEMPLATE`` would become if a lead's text were rendered.
RENDERED = "51724863"
TEMPLATE = "{{ 7191 * 7193 }}{% for x in y %}"

HOSTILE_TEXTS: Mapping[str, str] = MappingProxyType({
    "markup": "[red]Anna[/red] <b>x</b> & <a href=x> *x* _y_",
    "ansi": "Anna\x1b[31m\x1b]0;x\x07",
    "formula": "=cmd()|' /C x'!A0",
    "header": "Anna\r\nBcc: x@evil.example\r\n\r\nHello",
    "encoded_word": "A=?UTF-8?Q?=0A?=Bcc: x@evil.example",
    "template": TEMPLATE,
    "batch_reference": "$result[l1][ID]",
    "nul": "An\x00na",
    "bidi": "Anna\u202egpj.exe\u2066",
    "surrogate": "An\ud800na",
    "line_separators": "An\u2028na\u0085\x0bx",
    "emoji": "\U0001f469\u200d\U0001f467 Anna \U0001f44d\U0001f3fd",
    "quotes": "Anna \"'`\\ %0d%0a %s {0} ;--",
})  # fmt: skip


def _everywhere(text: str) -> dict[str, Any]:
    return {
        "name": text, "comment": text, "page_url": text, "utm": {"utm_source": text, "utm_term": text},
        "answers": (Answer(text, text),),
    }  # fmt: skip


#: Changes to a complete lead, by name.
HOSTILE_LEADS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    **{name: _everywhere(text) for name, text in HOSTILE_TEXTS.items()},
    "email_header": {"email": "anna@example.com\r\nBcc: x@evil.example"},
    "email_list": {"email": "anna@example.com, x@evil.example"},
    "email_surrogate": {"email": "an\ud800na@example.com"},
    "phone_header": {"phone": "+7 900 000-00-01\r\nX-Evil: 1"},
    "phone_words": {"phone": "call me <b>maybe</b>"},
    "long_comment": {"comment": "\u0416" * 50_000 + "\n" * 200},
    "long_name": {"name": "\u0416\u0436 " * 5_000},
    "many_answers": {"answers": tuple(Answer(f"question {n}", "yes " * 50) for n in range(300))},
    "empty": {"name": "", "phone": "", "email": "", "comment": "", "page_url": "", "utm": {}, "answers": (),
              "created_at": None, "external_entity_id": None, "external_project_id": None},
})  # fmt: skip
