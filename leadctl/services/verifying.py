"""Does ``[database.mapping]`` fit the database? Rows of ``leadctl doctor``, from bounded reads; no value is shown but
those of flags and enumerations, and one lead, masked."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from leadctl.channels import is_channel
from leadctl.domain.errors import LeadctlError
from leadctl.domain.masking import MASK, clean, mask_personal
from leadctl.domain.model import Account, Lead, sort_key
from leadctl.services.recognising.values import flag, is_encrypted, told
from leadctl.settings.mapping import Choice
from leadctl.store.credentials import Links, load_credentials, load_links
from leadctl.store.database import Database
from leadctl.store.deliverylog import DeliveryLog
from leadctl.store.health import different_values, links_of, newest_leads, raw_values
from leadctl.store.leads import CONTENT, load_leads
from leadctl.store.mapping import InColumn, OneOf, as_text, table_name

Row = dict[str, Any]
#: The newest leads that are looked at, and links.
LEADS, LINKS = 200, 20_000
_ID = re.compile(r"[\w.:/-]{1,60}")
_PARTS = (("entity", "external_entity_id"), ("project", "external_project_id"))


def row(check: str, message: str, *, warning: bool = False, hint: str = "") -> Row:
    """A check that has been made."""
    verdict = "warning" if warning else "ok"
    return {"check": check, "verdict": verdict, "code": None, "message": message, "hint": hint}


def failure(check: str, error: LeadctlError) -> Row:
    """A check that could not be made, or must be corrected."""
    return {"check": check, "verdict": "error", "code": error.code, "message": error.message, "hint": error.hint}


def verify(db: Database) -> Iterator[Row]:
    """The rows ``mapping …``, ``encryption`` and ``one lead``."""
    try:
        accounts = load_credentials(db)
        links = load_links(db, {account.credential_id for account in accounts})
        found = load_leads(db, newest_leads(db, LEADS))
    except LeadctlError as error:
        yield failure("mapping", error)
        return
    leads = sorted(found.values(), key=lambda lead: sort_key(lead.id), reverse=True)
    yield from _leads(db, leads)
    yield from _guarded("mapping credentials", lambda: _credentials(db, accounts))
    yield from _guarded("mapping links", lambda: _links(db, accounts, links, leads))
    yield from _guarded("mapping deliveries", lambda: _deliveries(db, leads))
    yield from _guarded("encryption", lambda: _encryption(db, accounts, leads))
    if leads:
        yield row("one lead", masked(leads[0]))


def _guarded(check: str, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
    try:
        yield from list(rows())
    except LeadctlError as error:
        yield failure(check, error)


# --- leads --------------------------------------------------------------------------------------------------------


def _leads(db: Database, leads: Sequence[Lead]) -> Iterator[Row]:
    table = f"table {db.leads.clause.name}"
    if not leads:
        yield row("mapping leads", f"{table}: there is no lead yet")
        return
    parts = [f"{_percent(sum(bool(getattr(lead, name)) for lead in leads), len(leads))} {name}"
             for name in (*CONTENT, "created_at") if name in db.leads]  # fmt: skip
    message = f"{table}, {_newest(len(leads))}: {', '.join(parts) or 'only ids'}"
    empty = not any(lead.name or lead.phone or lead.email for lead in leads)
    hint = "say in [database.mapping.leads] where name, phone and e-mail are" if empty else ""
    yield row("mapping leads", message, warning=empty, hint=hint)


def _newest(number: int) -> str:
    return f"the {number} newest" if number > 1 else "the only one"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def masked(lead: Lead) -> str:
    """One lead as leadctl sees it, with nothing of the person in it."""
    parts = [f"lead {_identity(lead.id)}"]
    for name, key in _PARTS:
        value = getattr(lead, key)
        parts.append(f"{name} {_identity(value)}" if value not in (None, "") else f"no {name}")
    parts.append(
        "name " + " ".join(f"{word[0]}{MASK}" for word in clean(lead.name).split()[:4]) if lead.name else "no name"
    )
    parts.append(f"phone {_ends(clean(lead.phone))}" if lead.phone else "no phone")
    parts.append(f"e-mail {clean(lead.email)[:1]}{MASK}@{MASK}" if lead.email else "no e-mail")
    if lead.comment:
        parts.append(f"a comment of {len(lead.comment):,} characters")
    if lead.page_url:
        parts.append(f"page at {_host(lead.page_url)}")
    parts.append(f"{len(lead.answers)} answer{'' if len(lead.answers) == 1 else 's'}")
    parts += [f"{clean(key, 40)} {mask_personal(clean(value, 40))}" for key, value in sorted(lead.utm.items())[:6]]
    parts.append(f"created {lead.created_at:%Y-%m-%d %H:%M} UTC" if lead.created_at else "no time")
    return ", ".join(parts)


def _identity(value: object) -> str:
    """An id; what is none, because a wrong column is mapped, may be a person's."""
    text = str(value)
    return text if _ID.fullmatch(text) else MASK


def _ends(phone: str) -> str:
    return f"{phone[:2]}{MASK}{phone[-2:]}" if len(phone) >= 8 else MASK


def _host(url: str) -> str:
    try:
        return clean(urlsplit(url).hostname or MASK, 60)
    except ValueError:
        return MASK


# --- credentials ----------------------------------------------------------------------------------------------------


def _credentials(db: Database, accounts: Sequence[Account]) -> Iterator[Row]:
    enabled = sum(account.enabled for account in accounts)
    kinds = Counter(account.channel for account in accounts)
    known = ", ".join(f"{name} {number}" for name, number in sorted(kinds.items()) if is_channel(name))
    message = f"table {db.credentials.clause.name}: {len(accounts)}, {enabled} enabled; {known or 'of no channel'}"
    seen, missing = _enabled(db)
    if seen is not None:
        message += f"; the column of enabled has {seen or 'no value'}"
    if missing:
        message += f", none of them is {missing}"
    hint = "say in [database.mapping.credentials] what enabled is" if accounts and not enabled else ""
    yield row("mapping credentials", message, warning=bool(accounts) and not enabled, hint=hint)
    strange: Counter[str] = Counter()
    for name, number in kinds.items():
        if not is_channel(name):
            strange[clean(told([name]), 40)] += number
    if strange:
        named = ", ".join(f"{name!r} {number}" for name, number in sorted(strange.items()))
        yield row("mapping types", f"of no channel: {named}; they are skipped", warning=False,
                  hint="if one of them is a channel: [database.mapping.types]")  # fmt: skip


def _enabled(db: Database) -> tuple[str | None, str]:
    """The values of the column of ``enabled``, and those that are asked for but never seen."""
    found = db.credentials.fields.get("enabled")
    place = found.inner if isinstance(found, OneOf) else found
    if not isinstance(place, InColumn):  # what else is in that JSON is not for people
        return None, ""
    mapped = db.mapping.credentials.enabled
    clause = db.credentials.clause
    values = different_values(db, (clause.name, clause.schema), place.column)
    asked = mapped.equals if isinstance(mapped, Choice) else ()
    seen = {as_text(value) for value in values}
    return told(values), told(value for value in asked if as_text(value) not in seen)


# --- links ----------------------------------------------------------------------------------------------------------


def _links(db: Database, accounts: Sequence[Account], links: Links, leads: Sequence[Lead]) -> Iterator[Row]:
    existing = {account.credential_id for account in accounts}
    for place, (part, key) in enumerate(_PARTS):
        name: Literal["entity_credentials", "project_credentials"] = (
            "entity_credentials" if part == "entity" else "project_credentials"
        )
        led = links_of(db, name, LINKS)
        sound = sum(credential in existing for credential in led)
        owned = [lead for lead in leads if getattr(lead, key) not in (None, "")]
        met = sum(links.owners(lead.external_entity_id, lead.external_project_id)[place] is not None for lead in owned)
        message = f"{part}: table {getattr(db, name).clause.name}, {_links_told(len(led))}"
        if led:
            message += f", {_percent(sound, len(led))} lead to a credential"
        message += f"; of the {len(leads)} newest leads {len(owned)} have a{'n' if part == 'entity' else ''} {part}"
        if owned:
            message += f", and {_percent(met, len(owned))} of these have a credential"
        # A link may be left of what was deleted, and a lead may have none; but all of them is no accident.
        wrong = bool(led) and (not sound or (bool(owned) and not met and len(owned) > 1))
        hint = f"check the ids that [database.mapping.{name}] and [database.mapping.leads] name" if wrong else ""
        yield row("mapping links", message, warning=wrong, hint=hint)


def _links_told(number: int) -> str:
    if number == LINKS:
        return f"{number:,} links looked at"
    return f"{number:,} link" if number == 1 else f"{number:,} links"


# --- deliveries -----------------------------------------------------------------------------------------------------


def _deliveries(db: Database, leads: Sequence[Lead]) -> Iterator[Row]:
    log = DeliveryLog.open(db, db.mapping)
    mapping = db.mapping.deliveries
    if log is None or mapping is None:
        return
    name = table_name(mapping, "deliveries", db.mapping.prefix)
    found = log.delivered([lead.id for lead in leads])
    message = f"table {name[0]}: of the {len(leads)} newest leads {len(found)} have a delivery there"
    missing = ""
    if mapping.status is not None:
        values = different_values(db, name, mapping.status)
        seen = {as_text(value) for value in values}
        missing = told(value for value in mapping.delivered if as_text(value) not in seen)
        message += f"; {mapping.status} has {told(values) or 'no value'}"
        message += (
            f", but nowhere {missing}" if missing else f", of which {told(mapping.delivered)} counts as delivered"
        )
    hint = "check status and delivered in [database.mapping.deliveries]" if missing else ""
    yield row("mapping deliveries", message, warning=bool(missing), hint=hint)


# --- encryption -----------------------------------------------------------------------------------------------------


def _encryption(db: Database, accounts: Sequence[Account], leads: Sequence[Lead]) -> Iterator[Row]:
    sealed = {
        "credentials": _sealed(raw_values(db, db.credentials, ("data", "settings"), LEADS)),
        "leads": _sealed(raw_values(db, db.leads, CONTENT, LEADS)),
    }
    shut = [
        f"credential {account.credential_id}: {account.problem}" for account in accounts if _is_shut(account.problem)
    ]
    shut += [f"lead {lead.id}: {lead.problem}" for lead in leads if _is_shut(lead.problem)]
    if not any(sealed.values()) and not shut:
        if db.keyring:
            yield row("encryption", "nothing that was looked at is encrypted; app_key is not needed for it")
        return
    held = " and ".join(f"{number} {name}" for name, number in sealed.items() if number)
    message = f"{held or 'what was looked at'} of the newest {LEADS} hold what Laravel has encrypted"
    if not shut:
        yield row("encryption", f"{message}; all of it opens")
        return
    message += f"; {len(shut)} cannot be read: {clean('; '.join(shut[:3]), 400)}"
    hint = (
        "check app_key and previous_keys of [database]"
        if db.keyring
        else 'set app_key in [database], say "env:APP_KEY"'
    )
    yield row("encryption", message, warning=True, hint=hint)


def _sealed(rows: Sequence[tuple[Any, ...]]) -> int:
    return sum(any(map(is_encrypted, values)) for values in rows)


def _is_shut(problem: str | None) -> bool:
    return problem is not None and "encrypted" in problem


# --- the config's own -----------------------------------------------------------------------------------------------


def shown_mapping(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of ``[database.mapping]`` that are set, without what may be secret: defaults, constants of accounts."""
    for key, value in _leaves(tree, ()):
        hidden = ("default" in key and key[0] in ("data", "settings")) or ("value" in key and key[0] == "credentials")
        yield ".".join(key), MASK if hidden else flag(value)


def _leaves(tree: Mapping[str, Any], before: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*before, key))
        elif value is not None:
            yield (*before, key), value
