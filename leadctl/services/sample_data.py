"""The sample database of ``leadctl demo``: some hundred leads, and every oddity that a real database has.

Deterministic: the same arguments give the same rows.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from leadctl.store.sample import create_tables, insert_rows

#: ``data`` and ``settings`` of a credential that works, by channel.
Working = Mapping[str, Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]]
Row = dict[str, Any]

ENTITIES = (1, 2, 3, 4, 5, 6)
PROJECTS = (101, 102, 103, 104)
#: Nothing is linked to these.
LONELY_ENTITY, LONELY_PROJECT = 90, 190
#: Every working credential is linked to this entity.
FULL_ENTITY = 1
FIRST_LEAD_AT = datetime(2026, 1, 12, 9, 0)  # noqa: DTZ001 a naive column, as applications have them

_PEOPLE = (
    "Анна Ким", "Иван Петров", "Ольга Сергеевна Васильева", "Дмитрий Ёлкин", "Мария", "Тимур Айдаров",
    "John Smith", "Emily O'Neill", "Zoë Núñez", "Li Wei", "Jürgen Groß", "Priya Raman",
)  # fmt: skip
_COMMENTS = (
    "Перезвоните после 18:00", "Интересует тур на двоих в мае", "Нужен счёт для юрлица", "", "Уже клиент, хочу скидку",
    "Please call back after 6 pm", "Two adults, one child", "", "Send the price list, please",
)  # fmt: skip
_ANSWERS: tuple[Any, ...] = (
    {"Бюджет": "100 000", "Когда едете?": "в мае"}, {"budget": "1500", "persons": 2}, {},
    [{"question": "Ваш город", "answer": "Казань"}, {"question": "Откуда узнали?", "answer": "от друзей"}],
    [{"question": "Company size", "answer": "10-50"}],
)  # fmt: skip
_SOURCES: tuple[dict[str, str], ...] = (
    {"utm_source": "yandex", "utm_medium": "cpc", "utm_campaign": "brand"}, {"utm_source": "google"}, {},
    {"utm_source": "newsletter", "utm_medium": "email", "utm_content": "весна", "utm_term": ""},
)  # fmt: skip
#: Texts that try to become markup, a header, a formula, a template or a command. They are data.
_HOSTILE: tuple[Row, ...] = (
    {"name": "[red]Anna[/red] <b>x</b> & <a href=x>", "comment": "*bold* _under_ `code` </script>"},
    {"name": "Anna\r\nBcc: somebody@example.com", "comment": "line one\r\n\r\nline two"},
    {"name": "=cmd()|' /C calc'!A0", "comment": "+1+1; @SUM(A1); -2"},
    {"name": "{{ lead.email }}{% for x in y %}", "comment": "{{ 7 * 7 }} $result[l1][ID] %s {0}"},
    {"name": "An\x1b[31mna\x07", "comment": "\x1b]0;title\x07 \u202egpj.exe"},
    {"name": "👩‍👧 Анна 👍🏽", "comment": "🙂" * 200},
    {"name": "", "phone": "", "email": "", "comment": "", "page_url": "", "utm": None, "answers": None},
    {"name": "Ж" * 300, "comment": "Очень длинный рассказ. " * 900},
    {"email": "not an address", "phone": "call me maybe"},
    {"email": "anna@example.com, second@example.com", "phone": "+7 900 000-00-01 доб. 12"},
    {"utm": "{broken", "answers": "not JSON either"},
)


def build_sample_database(path: Path, credentials: Working, leads: int = 300) -> None:
    """Create the SQLite file with the four tables and fill them.

    ``credentials``: working ones (of the sandbox), by channel. Beside them stand a disabled one, one with broken
    JSON, one without its required keys, two of unsupported types, and one that leads where another leads already.
    """
    url = f"sqlite:///{path.absolute()}"
    create_tables(url)
    rows, working = _credentials(credentials)
    entity_links, project_links = _links(rows, working)
    insert_rows(url, "credentials", rows)
    insert_rows(url, "entity_credentials", entity_links)
    insert_rows(url, "project_credentials", project_links)
    insert_rows(url, "leads", list(_leads(leads)))


def _credentials(credentials: Working) -> tuple[list[Row], list[int]]:
    """The rows, and the ids of those that work."""
    rows = [
        _credential(number, channel, f"{channel} {place}" if place > 1 else channel, data, settings)
        for number, (channel, place, data, settings) in enumerate(_numbered(credentials), 1)
    ]
    working = [row["id"] for row in rows]
    first = rows[0] if rows else _credential(0, "webhooks", "", {"url": "https://crm.example/hook"}, {})
    odd = [
        {**first, "name": "Отключён / disabled", "enabled": False},
        {**first, "name": "Broken JSON", "data": '{"url": "https://crm.example/'},
        {**first, "name": "Keys missing", "data": "{}"},
        {**first, "name": "A type that nobody knows", "type": first["type"].title()},
        _credential(0, "pipedrive", "Of a type without a channel", {"api_token": "k"}, {}),
    ]
    if rows:
        odd.append({**first, "name": "Leads where another leads already"})
    start = len(rows) + 1
    return rows + [{**row, "id": start + place} for place, row in enumerate(odd)], working


def _numbered(credentials: Working) -> Iterator[tuple[str, int, Mapping[str, Any], Mapping[str, Any]]]:
    for channel, accounts in credentials.items():
        for place, (data, settings) in enumerate(accounts, 1):
            yield channel, place, data, settings


def _credential(
    number: int, channel: str, name: str, data: Mapping[str, Any], settings: Mapping[str, Any]
) -> Row:  # fmt: skip
    return {
        "id": number, "type": channel, "name": name, "enabled": True,
        "data": json.dumps(data, ensure_ascii=False), "settings": json.dumps(settings, ensure_ascii=False),
    }  # fmt: skip


def _links(rows: Sequence[Row], working: Sequence[int]) -> tuple[list[Row], list[Row]]:
    odd = [row["id"] for row in rows if row["id"] not in working]
    entities = [(FULL_ENTITY, number) for number in (*working, *odd)]
    projects: list[tuple[int | None, int]] = []
    for place, number in enumerate(working):
        entities += [(entity, number) for entity in ENTITIES[1:] if (entity + place) % 3 == 0]
        projects += [(project, number) for project in PROJECTS if (project + place) % 4 == 0]
    if working:
        entities.append((FULL_ENTITY, working[0]))  # linked twice
        projects.append((PROJECTS[0], working[0]))  # and both ways, for a lead of both
        projects.append((None, working[0]))  # matches no lead, not even one without a project
    entities.append((ENTITIES[1], rows[-1]["id"] + 1000))  # a credential that is gone
    return (
        [{"external_entity_id": owner, "credentials_id": number} for owner, number in entities],
        [{"external_project_id": owner, "credentials_id": number} for owner, number in projects],
    )


def _leads(count: int) -> Iterator[Row]:
    dice = random.Random(20260112)
    for number in range(1, count + 1):
        person = _PEOPLE[number % len(_PEOPLE)]
        row = {
            "id": number,
            "external_entity_id": _owner(dice, ENTITIES, LONELY_ENTITY),
            "external_project_id": _owner(dice, PROJECTS, LONELY_PROJECT),
            "name": person,
            "phone": f"+7 900 {dice.randrange(1000):03d}-{dice.randrange(100):02d}-{dice.randrange(100):02d}",
            "email": f"lead{number}@example.com",
            "comment": dice.choice(_COMMENTS),
            "page_url": f"https://example.com/landing/{dice.randrange(9)}?from=ad",
            "utm": json.dumps(dice.choice(_SOURCES), ensure_ascii=False),
            "answers": json.dumps(dice.choice(_ANSWERS), ensure_ascii=False),
            "created_at": str(FIRST_LEAD_AT + timedelta(minutes=37 * number)),
        }
        if number % 9 == 0:
            row.update(_HOSTILE[number // 9 % len(_HOSTILE)])
        yield row


def _owner(dice: random.Random, owners: Sequence[int], lonely: int) -> int | None:
    """Mostly one of ``owners``; sometimes one that has no credentials, sometimes none at all."""
    chance = dice.random()
    if chance < 0.1:
        return None
    return lonely if chance < 0.15 else dice.choice(owners)
