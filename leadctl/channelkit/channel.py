"""A channel: what a vendor's file implements."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationError

from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.sessions import Sessions
from leadctl.channelkit.spec import Bucket, ChannelSpec, Step
from leadctl.channelkit.stopping import Stopping
from leadctl.domain.errors import InvalidCredential
from leadctl.domain.events import Event
from leadctl.domain.masking import Secrets
from leadctl.domain.model import (
    Account,
    CannotTell,
    CredentialId,
    Delivery,
    Destination,
    Finding,
    Lead,
    Verdict,
)
from leadctl.domain.ports import Clock, CredentialStore


class ChannelConfig(BaseModel):
    """Base of every channel's ``Config``: validates ``credentials.data``. Unknown keys are ignored, since the
    application may keep more there. Secrets are ``SecretStr``."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class ChannelSettings(BaseModel):
    """Base of every channel's ``Settings``: validates ``credentials.settings``."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    #: ``hold``: leave what is in doubt to a person.
    on_unknown: Literal["settle", "hold"] = "settle"


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.replace(";", ",").split(",") if part.strip()]
    return value


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


#: The columns of a lead that a channel may judge it by.
LEAD_COLUMNS = frozenset({"name", "phone", "email", "comment", "page_url", "utm", "answers", "created_at"})
#: A list that may be given as one string ("a@b.c, d@e.f").
TextList = Annotated[list[str], BeforeValidator(_split, json_schema_input_type=list[str] | str)]
#: A text that may be given as a number (a chat id, a campaign id).
Text = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int)]

ConfigT = TypeVar("ConfigT", bound=ChannelConfig)
SettingsT = TypeVar("SettingsT", bound=ChannelSettings)


@dataclass(frozen=True)
class Toolbox:
    """What a channel may use of the world. Planning needs none of it but ``credential_id``."""

    credential_id: CredentialId
    guard: NetworkGuard
    clock: Clock
    credentials: CredentialStore
    notify: Callable[[Event], None] = field(default=lambda event: None)
    secrets: Secrets = field(default_factory=Secrets)
    sessions: Sessions = field(default_factory=Sessions)
    stopping: Stopping = field(default_factory=Stopping)
    #: Divides our own waits; 1.0 but for test servers.
    scale: float = 1.0


class Channel(ABC, Generic[ConfigT, SettingsT]):
    """One credential at one vendor.

    ``send`` raises a :class:`~leadctl.domain.errors.DeliveryError` for the whole request, or answers with a
    receipt per delivery key (:class:`~leadctl.domain.model.Verdict`). The engine decides what follows.
    """

    spec: ClassVar[ChannelSpec]
    Config: ClassVar[type[ChannelConfig]]
    Settings: ClassVar[type[ChannelSettings]]
    #: How many requests were made: those without a place in the limiter of their own are made up for.
    exchanges: int = 0

    def __init__(self, config: ConfigT, settings: SettingsT, toolbox: Toolbox) -> None:
        self.config = config
        self.settings = settings
        self.toolbox = toolbox
        toolbox.secrets.add(self.secret_values())

    @classmethod
    def open(cls, account: Account, toolbox: Toolbox) -> "Channel[Any, Any]":
        """Validate ``data`` and ``settings`` and make the channel. Raises InvalidCredential."""
        if account.problem:
            raise InvalidCredential(account.problem)
        config = _validated(cls.Config, account.data, "data")
        settings = _validated(cls.Settings, account.settings, "settings")
        channel = cls(config, settings, toolbox)  # type: ignore[arg-type]  # Config is ConfigT by construction
        for url in channel.endpoints():
            toolbox.guard.check_url(url)
        return channel

    @abstractmethod
    def destination(self) -> Destination:
        """Where this credential leads to (CONTRACT §2.3)."""

    @abstractmethod
    def endpoints(self) -> Sequence[str]:
        """The URLs (``smtp://host:port`` too) that this credential names: checked by the network guard."""

    @abstractmethod
    def buckets(self) -> Sequence[Bucket]:
        """The limits that every request falls under, widest first; the last one is the lane."""

    def problems(self, lead: Lead) -> Sequence[str]:
        """Why this lead cannot be sent here (``invalid_lead``). Pure."""
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        """The lead's columns that ``problems`` looks at, beside the ids: a plan of a million leads reads no others.
        None at all: it would take every lead, and is not asked."""
        return frozenset() if type(self).problems is Channel.problems else LEAD_COLUMNS

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        """:meth:`problems`, or a function that says the same for every credential that is set up alike: a plan asks
        each function once about a lead, and not every credential."""
        return self.problems

    def needs(self, step: Step, delivery: Delivery) -> bool:
        """Whether the delivery has anything for this step (a note needs a comment). Pure."""
        return True

    def batch_size(self, step: Step) -> int:
        """How many deliveries to put into the next request; at most ``step.batch``."""
        return step.batch

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        """Whether this delivery must travel in a request of its own."""
        return False

    def batch_key(self, step: Step, delivery: Delivery) -> str | None:
        """Two deliveries with the same key never travel in one request (an upsert by e-mail): the later one waits, also
        while the earlier one waits to be sent again. None: it may travel with any other. Pure."""
        return None

    async def prepare(self, step: Step) -> Mapping[str, str]:
        """What a later look-up needs, to be committed with the intents (amoCRM's highest lead id).

        Not asked of an IDEMPOTENT step: nobody looks for what can be sent again.
        """
        return {}

    @abstractmethod
    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        """Send the batch. Keys of the receipts are ``Delivery.key``."""

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        """Ask the vendor which of these it has. ``Delivery.context`` is what ``prepare`` gave then."""
        return {delivery.key: CannotTell("this channel cannot be asked", final=True) for delivery in batch}

    @abstractmethod
    async def check(self) -> str:
        """One read-only call; names the remote account. Raises DeliveryError."""

    async def close(self) -> None:
        """Close connections."""

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return self.spec.steps

    def secret_values(self) -> Iterator[str]:
        """Every secret of this credential, so that it is never shown."""
        yield from _secrets_of(self.config)


def _secrets_of(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets_of(item)


M = TypeVar("M", bound=BaseModel)


def _validated(model: type[M], values: Mapping[str, Any], where: str) -> M:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join([where, *(str(part) for part in first["loc"])])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidCredential(f"{name}: {message}{more}") from None
