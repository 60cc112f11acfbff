"""Templates over a lead: sandboxed Jinja2. A lead's own text is data and is never rendered again."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import ChainableUndefined, Template, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from leadctl.domain.errors import InvalidCredential, Rejected
from leadctl.domain.model import Lead

#: The words of the default messages.
LABELS: Mapping[str, Mapping[str, str]] = {
    "ru": {
        "title": "Новый лид", "id": "Номер", "name": "Имя", "phone": "Телефон", "email": "E-mail",
        "comment": "Комментарий", "page_url": "Страница", "created_at": "Создан", "answers": "Ответы",
        "utm": "Метки", "repeat": "Возможный повтор",
    },
    "en": {
        "title": "New lead", "id": "Number", "name": "Name", "phone": "Phone", "email": "E-mail",
        "comment": "Comment", "page_url": "Page", "created_at": "Created", "answers": "Answers",
        "utm": "Tags", "repeat": "Possible repeat",
    },
}  # fmt: skip

_PLAIN = ImmutableSandboxedEnvironment(undefined=ChainableUndefined, autoescape=False, keep_trailing_newline=True)
_HTML = ImmutableSandboxedEnvironment(undefined=ChainableUndefined, autoescape=True, keep_trailing_newline=True)
for _environment in (_PLAIN, _HTML):
    _environment.trim_blocks = True
    _environment.lstrip_blocks = True
#: The most characters that a rendered template may have.
MAX_OUTPUT = 200_000


@lru_cache(maxsize=512)
def _compiled(source: str, html: bool) -> Template:
    return (_HTML if html else _PLAIN).from_string(source)


def check_template(source: str) -> str:
    """The template itself, if it can be compiled (for a validator of ``settings``). Raises ValueError."""
    try:
        _compiled(source, html=False)
    except TemplateError as error:
        raise ValueError(f"not a valid template: {error.message or type(error).__name__}") from None
    return source


@lru_cache(maxsize=512)
def never_fails(source: str) -> bool:
    """Whether this valid template can be rendered over every lead: it only shows what the lead has, or chooses by it.
    What cannot be told at a glance may fail."""
    return all(map(_is_safe, _PLAIN.parse(source).body))


def _is_safe(node: nodes.Node) -> bool:
    """What is missing is empty, at any depth (ChainableUndefined), and so is what the sandbox refuses."""
    match node:
        case nodes.Name():
            return node.name == "lead"
        case nodes.Const() | nodes.TemplateData():
            return True
        case nodes.Getitem() if not isinstance(node.arg, nodes.Const):
            return False
        case nodes.Filter() if node.name not in ("default", "d") or len(node.args) > 2 or node.dyn_args:
            return False
        case (
            nodes.Getattr() | nodes.Getitem() | nodes.Filter() | nodes.And() | nodes.Or() | nodes.Not()
            | nodes.Output() | nodes.If() | nodes.CondExpr()
        ):  # fmt: skip
            return all(map(_is_safe, node.iter_child_nodes()))
    return False


def lead_context(lead: Lead) -> dict[str, Any]:
    """What a template sees as ``lead``: the columns; ``answers`` by question, ``utm`` by key."""
    return {
        "id": lead.id,
        "external_entity_id": lead.external_entity_id,
        "external_project_id": lead.external_project_id,
        "name": lead.name,
        "phone": lead.phone,
        "email": lead.email,
        "comment": lead.comment,
        "page_url": lead.page_url,
        "utm": dict(lead.utm),
        "answers": {answer.question: answer.answer for answer in lead.answers},
        "answer_list": [{"question": a.question, "answer": a.answer} for a in lead.answers],
        "created_at": lead.created_at,
    }


def render(source: str, lead: Lead, *, html: bool = False, **more: Any) -> str:
    """Render a template over a lead. ``html``: every value is escaped. Raises Rejected if it fails."""
    try:
        text = _compiled(source, html).render(lead=lead_context(lead), **more)
    except InvalidCredential:
        raise
    except Exception as error:  # noqa: BLE001 a template is the user's program: whatever it raises is its fault
        raise Rejected(
            f"the template in settings fails for this lead: {type(error).__name__}", vendor_code="template"
        ) from None
    return text[:MAX_OUTPUT]
