"""JSON Schemas of every document that leadctl prints (tests/schemas), strict: no key more, no key less."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

DIRECTORY = Path(__file__).parents[1] / "schemas"


def validate(document: Mapping[str, Any]) -> None:
    """Check a document against the schema that its ``schema`` names. Raises jsonschema.ValidationError."""
    name, slash, version = str(document["schema"]).removeprefix("leadctl.").partition("/")
    assert (slash, version) == ("/", "1"), f"not a name of a schema: {document['schema']}"
    _check(name, document)


def validate_plan_line(line: str) -> dict[str, Any]:
    """Check one line of ``plan --jsonl`` and return it."""
    document: dict[str, Any] = json.loads(line)
    _check("plan_line", document)
    return document


def _check(name: str, document: Mapping[str, Any]) -> None:
    # Through JSON and back: what is checked is what a reader gets, and no NaN passes.
    _validator(name).validate(json.loads(json.dumps(document, allow_nan=False)))


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    common = json.loads((DIRECTORY / "common.json").read_text(encoding="utf-8"))
    registry: Registry[Any] = Registry().with_resource("common.json", Resource.from_contents(common))
    return registry
