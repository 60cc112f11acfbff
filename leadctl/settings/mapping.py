"""``[database.mapping]``: what the tables and columns of leadctl are called in somebody's own database.

Names are only ever quoted and values only ever bound: nothing of it becomes SQL text.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

ARROW = "->"
#: How pydantic marks the member of a union in an error's place.
UNION_TAGS = frozenset({"str", "Constant", "Choice", "Group"})
#: What a row can be compared with.
Scalar: TypeAlias = str | int | float | bool


class Section(BaseModel):
    """A table of the config file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _path(text: str) -> str:
    if not all(part.strip() for part in text.split(ARROW)):
        raise ValueError(f"{text!r} names no column; write column, or column->key->key for a place within JSON")
    return text


#: A column, or a place within a JSON column: ``data->contact->name``.
Path = Annotated[str, AfterValidator(_path)]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Constant(Section):
    """The same value for every row."""

    value: Any


class Choice(Section):
    """True where the column has one of these values: ``enabled = { column = "status", equals = ["active"] }``."""

    column: Path
    equals: Annotated[list[Scalar], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


def _kind(raw: Any) -> str:
    if isinstance(raw, (str, Constant, Choice)):
        return type(raw).__name__
    if isinstance(raw, Mapping) and "value" in raw and len(raw) == 1:
        return "Constant"
    if isinstance(raw, Mapping) and "equals" in raw:
        return "Choice"
    return "Group"


#: Where a value of ours is found.
Source = Annotated[
    Annotated[Path, Tag("str")] | Annotated[Constant, Tag("Constant")] | Annotated[Choice, Tag("Choice")],
    Discriminator(_kind),
]
#: An object of several places: UTM in columns of their own.
Group: TypeAlias = dict[str, Annotated[Path, Tag("str")] | Annotated[Constant, Tag("Constant")]]
Whole = Annotated[
    Annotated[Path, Tag("str")] | Annotated[Constant, Tag("Constant")] | Annotated[Group, Tag("Group")],
    Discriminator(_kind),
]
#: A column that may be said not to be there.
Optional_: TypeAlias = Path | Literal[False] | None


class TableMapping(Section):
    """A table's name (the prefix comes before it), and which of its rows are meant."""

    table: Name | None = None
    #: column → the value, or the values, that it has in the rows that are meant.
    where: dict[Name, Scalar | list[Scalar]] = Field(default_factory=dict)
    deleted_at: Optional_ = None


class LeadsMapping(TableMapping):
    """``leads``."""

    id: Name | None = None
    external_entity_id: Source | None = None
    external_project_id: Source | None = None
    name: Source | None = None
    phone: Source | None = None
    email: Source | None = None
    comment: Source | None = None
    page_url: Source | None = None
    utm: Whole | None = None
    answers: Whole | None = None
    created_at: Source | None = None


class CredentialsMapping(TableMapping):
    """``credentials``."""

    id: Name | None = None
    type: Source | None = None
    name: Source | None = None
    enabled: Source | None = None
    data: Whole | None = None
    settings: Whole | None = None


class Through(TableMapping):
    """A table between lead and link: the lead has its ``external_id``, the link its ``id``."""

    table: Name
    id: Name = "id"
    external_id: Name


class LinkMapping(TableMapping):
    """``entity_credentials`` or ``project_credentials``."""

    credentials_id: Name | None = None
    through: Through | None = None


class EntityLinkMapping(LinkMapping):
    """``entity_credentials``."""

    external_entity_id: Name | None = None


class ProjectLinkMapping(LinkMapping):
    """``project_credentials``."""

    external_project_id: Name | None = None


class KeySource(Section):
    """Where a key of ``data`` or ``settings`` is found, and what it is where it is not there."""

    key: Path | None = None
    default: Any = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        return {"key": raw} if isinstance(raw, str) else raw


#: channel → our key → theirs.
Keys: TypeAlias = dict[str, dict[str, KeySource]]


class DeliveriesMapping(TableMapping):
    """The application's own log of what it has sent. ``delivered``: what ``status`` says of what has arrived; without
    a status every row means that."""

    table: Name
    lead_id: Name = "lead_id"
    credential_id: Name | None = None
    type: Name | None = None
    status: Name | None = None
    delivered: Annotated[list[Scalar], BeforeValidator(lambda value: value if isinstance(value, list) else [value])] = (
        Field(default_factory=list)
    )
    at: Name | None = None
    remote_id: Name | None = None

    @model_validator(mode="after")
    def _tells(self) -> "DeliveriesMapping":
        if self.credential_id is None and self.type is None:
            raise ValueError("name the column of the credential (credential_id), or of its type (type)")
        if (self.status is None) != (not self.delivered):
            raise ValueError("status and delivered go together: a column, and its values that mean delivered")
        return self


class MappingSettings(Section):
    """All of ``[database.mapping]``."""

    prefix: str = Field("", max_length=64)
    leads: LeadsMapping = LeadsMapping()
    credentials: CredentialsMapping = CredentialsMapping()
    entity_credentials: EntityLinkMapping = EntityLinkMapping()
    project_credentials: ProjectLinkMapping = ProjectLinkMapping()
    #: The application's name of a type → the channel.
    types: dict[str, str] = Field(default_factory=dict)
    data: Keys = Field(default_factory=dict)
    settings: Keys = Field(default_factory=dict)
    deliveries: DeliveriesMapping | None = None
