"""From options to what the services are asked."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from leadctl.cli.context import Context
from leadctl.cli.ids import Coerce, read_id, read_ids
from leadctl.cli.options import (
    MissingOptions,
    NamedOptions,
    QueueOptions,
    SelectionOptions,
    SelectorOptions,
    SendOptions,
)
from leadctl.cli.times import ago, local_zone, parse_deadline, parse_duration, parse_time
from leadctl.domain.errors import ConfigError
from leadctl.domain.ids import UniqueIds

if TYPE_CHECKING:
    from datetime import datetime

    from leadctl.domain.model import LeadId
    from leadctl.services.requests import LeadSelection, Queueing, Selectors


def selectors(options: SelectorOptions) -> "Selectors":
    """Which integrations. Raises ConfigError for a channel that does not exist, with the nearest."""
    from leadctl.services.requests import Selectors

    return Selectors(
        channels=_channels(options.channel, "--channel"),
        skip_channels=_channels(options.skip_channel, "--skip-channel"),
        credentials=_credentials(options.credential),
        credentials_file=_file(options.credentials_file, "--credentials-file"),
        settings_file=_file(options.settings_file, "--settings-file"),
    )


def queueing(
    options: QueueOptions, selector: SelectorOptions, here: Mapping[str, object] = MappingProxyType({})
) -> "Queueing | None":
    """Whether workers shall send it. ``here``: options that need this process, with their values, beside files.

    Raises ConfigError for one of them that is given, or a name that is none.
    """
    from leadctl.services.requests import Queueing

    if options.queue is None:
        if options.priority:
            raise ConfigError("--priority is about --queue, which is not given")
        return None
    files = {"--credentials-file": selector.credentials_file, "--settings-file": selector.settings_file}
    for flag, value in {**files, **here}.items():
        if value:
            raise ConfigError(
                f"{flag} cannot be used with --queue: workers on other machines know nothing of it",
                hint="leave it out, or send without --queue",
            )
    return Queueing(queue_name(options.queue), options.priority, seconds(options.chunk, "--chunk"))


def queue_name(text: str) -> str:
    """Letters, digits, ``-`` and ``_``, a letter first. Raises ConfigError."""
    if re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", text):
        return text
    raise ConfigError(
        f"--queue {text}: not a name of a queue (small letters, digits, - and _; a letter first)",
        hint="without a name, let --queue be the last option, or put leads before it: 42 --queue",
    )


def lead_selection(context: Context, options: SelectionOptions, coerce: Coerce) -> "LeadSelection":
    """Which leads: arguments and file together, the others ANDed. Raises ConfigError if nothing selects."""
    from leadctl.services.requests import LeadSelection

    now, zone = context.now(), local_zone(context.loaded.settings.timezone)
    since = parse_time(options.since, "--since", now=now, zone=zone) if options.since else None
    until = parse_time(options.until, "--until", now=now, zone=zone) if options.until else None
    if options.max_age:
        oldest = ago(parse_duration(options.max_age, "--max-age"), "--max-age", now)
        since = max(since, oldest) if since else oldest
    if since and until and since >= until:
        raise ConfigError("no lead can be that new and that old: --since (or --max-age) is not before --until")
    ids = named_ids(context, options, coerce)
    if ids is None and options.project is None and options.entity is None and since is None and until is None:
        raise ConfigError(
            "no lead is selected", hint="name leads, or use --ids-file, --project, --entity, --since or --max-age"
        )
    typed = tuple(f"{name}={text}" for name, text in _times(options) if text)
    return LeadSelection(ids, options.project, options.entity, since, until, typed)


def missing_selection(
    context: Context, options: MissingOptions, coerce: Coerce, *, forced: bool = False, queued: bool = False
) -> "LeadSelection":
    """:func:`lead_selection`, or with ``--missing`` those of them that lack something. Raises ConfigError.

    ``queued``: it is for the queue, and what is in there already is not missing.
    """
    if options.first_run and not options.missing:
        raise ConfigError("--first-run is about --missing, which is not given")
    if options.missing and options.since is None and options.max_age is None:
        raise ConfigError(
            "--missing needs to know how far to look back", hint="add --since TIME or --max-age AGE, say: --since 2d"
        )
    if options.missing and forced:
        raise ConfigError("--missing sends what is not proven, --force sends again what is: use one of them")
    return replace(
        lead_selection(context, options, coerce),
        missing=options.missing,
        unless_queued=options.missing and queued,
        first_run=options.first_run,
    )


def _times(options: SelectionOptions) -> tuple[tuple[str, str | None], ...]:
    return ("since", options.since), ("until", options.until), ("max_age", options.max_age)


def named_ids(context: Context, options: NamedOptions, coerce: Coerce) -> UniqueIds | None:
    """The ids of the arguments and of the file, each once, as given; None if there are neither."""
    if options.skip_bad_lines and options.ids_file is None:
        raise ConfigError("--skip-bad-lines is about --ids-file, which is not given")
    if not options.leads and options.ids_file is None:
        return None
    ids = UniqueIds(lead_id(text, coerce) for text in options.leads)
    if options.ids_file is None:
        return ids
    stdin = getattr(context.stdin, "buffer", None)
    parsed = read_ids(options.ids_file, stdin, coerce, skip_bad_lines=options.skip_bad_lines)
    if parsed.bad:
        context.warn(f"{options.ids_file}: left out: {parsed.complaint()}")
    return UniqueIds(chain(ids, parsed.ids)) if ids else parsed.ids


def lead_id(text: str, coerce: Coerce) -> "LeadId":
    """An id of the command line as the database holds it. Raises ConfigError."""
    try:
        return read_id(text, coerce)
    except ValueError as error:
        raise ConfigError(f"LEAD_ID: {error}") from None


def force_reason(options: SendOptions) -> str | None:
    """The reason of a forced send. Raises ConfigError if one of both flags stands alone."""
    reason = (options.reason or "").strip()
    if options.force and not reason:
        raise ConfigError("--force sends again what is proven: say why", hint="add --reason TEXT")
    if options.reason is not None and not options.force:
        raise ConfigError("--reason is about --force, which is not given")
    return reason or None


def seconds(text: str | None, option: str) -> float:
    """A duration that may be missing."""
    return parse_duration(text, option) if text is not None else 0.0


def percentage(text: str | None, option: str) -> float:
    """``60%`` or ``60`` as 0.6; all of it where nothing is given. Raises ConfigError."""
    if text is None:
        return 1.0
    number = text.strip().removesuffix("%").strip()
    if number.isascii() and number.isdecimal() and 1 <= int(number) <= 100:
        return int(number) / 100
    raise ConfigError(f"{option}: {text!r} is no part of a limit", hint="write it like 60%: from 1% to 100%")


def deadline_of(context: Context, text: str | None) -> "datetime | None":
    """``--finish-by``. Raises ConfigError for what is over."""
    if text is None:
        return None
    zone = local_zone(context.loaded.settings.timezone)
    return parse_deadline(text, "--finish-by", now=context.now(), zone=zone)


def _split(values: list[str]) -> list[str]:
    """``-c email,amocrm -c telegram`` as one list, each once."""
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def _channels(values: list[str], option: str) -> tuple[str, ...]:
    from leadctl.services.accounts import check_channel

    names = tuple(_split(values))
    if values and not names:
        raise ConfigError(f"{option}: no channel is named")
    for name in names:
        check_channel(name, option)
    return names


def _credentials(values: list[str]) -> tuple[str, ...]:
    ids = tuple(_split(values))
    if values and not ids:  # an unset shell variable must not mean all of them
        raise ConfigError("--credential: no credential is named")
    return ids


def _file(text: str | None, option: str) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"{option}: {text} is not a file")
    return path
