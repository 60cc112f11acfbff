"""What a channel can do, as data: the engine, ``leadctl channels`` and the README read the same values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Retransmit(StrEnum):
    """What a repeated request does, and so what follows when an attempt is in doubt."""

    #: Our key travels, or it is an upsert: send again under the same key.
    IDEMPOTENT = "idempotent"
    #: Ask the vendor first; only a proven absence is sent again.
    LOOKUP = "lookup"
    #: Nothing can be known: stays unknown until a person says otherwise.
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class Step:
    """One request of a delivery. The first step that is not preparatory is the main one: done = delivered."""

    name: str
    retransmit: Retransmit
    #: The most deliveries in one request.
    batch: int = 1
    #: LOOKUP: seconds after the end of the attempt in doubt at which the vendor is asked; the last Absent is believed.
    looks: tuple[float, ...] = ()
    #: How many deliveries one request of a look-up asks about; None: as many as a request carries.
    look_batch: int | None = None
    #: Seconds after the send for which the vendor may still be at it, although we hear nothing more.
    busy: float = 0.0
    #: Makes something that the main step needs (the contact of a deal); done, it is not yet a delivery.
    preparatory: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` requests per ``per`` seconds, at most ``burst`` at once; never above ``documented`` per ``per``."""

    rate: float
    per: float = 1.0
    burst: float = 1.0
    documented: float | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A limit that is shared by everything with the same ``scope``.

    ``scope`` is hashed where it holds a secret. ``[limits]`` of the config sets the bucket whose limit has a
    ``documented`` rate.
    """

    scope: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """Everything about a channel that is not behaviour."""

    name: str
    title: str
    docs: str
    steps: tuple[Step, ...]
    #: How the vendor limits, in words a person can check ("7 requests/s an integration; we keep 5/s").
    limits: str
    #: What a repeated send does, in words.
    repeat: str
    #: Requests in flight per lane.
    concurrency: int = 1
    #: Seconds for one whole request, the answer included.
    request_timeout: float = 30.0
    connect_timeout: float = 10.0
    #: Where the vendor only queues (``Done.accepted``): seconds after which ``find`` would see it; asked once, at the
    #: end of a bulk run, a lead at a time.
    visible_after: float | None = None
    #: How errors are read: what the vendor says → the type of leadctl.domain.errors, for README and tests.
    errors: Mapping[str, str] = field(default_factory=dict)
    #: An example of the credential's ``data`` and ``settings`` for ``channels schema``; made-up secrets.
    example_data: Mapping[str, object] = field(default_factory=dict)
    example_settings: Mapping[str, object] = field(default_factory=dict)
