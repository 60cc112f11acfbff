"""The JSON of a plan. What leads have in common is encoded once: a million leads differ in little but their ids."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from leadctl.domain.model import CredentialId, LeadPlan, PlannedDelivery, Skip
from leadctl.domain.outcomes import PlanState
from leadctl.services.planning import Entry, Shape
from leadctl.services.routing import MEMO, OpenRoute, Via
from leadctl.services.shapes import lead_plan_json, planned_json, skip_json

#: How many deliveries and skips are kept as text, each of some 150 bytes.
_PIECES = 16_384


class PlanEncoder:
    """Makes the text of leads as ``leadctl.plan/1`` has them (see :func:`lead_plan_json`)."""

    def __init__(self, dumps: Callable[[Any], str]) -> None:
        self._dumps = dumps
        self._shape = lru_cache(MEMO)(self._encode_shape)
        #: By credential, and what else tells two of its pieces apart.
        self._pieces: dict[tuple[CredentialId, Via, str], str] = {}

    def leads(self, page: Sequence[Entry]) -> Iterator[str]:
        """A JSON object for each."""
        for lead_id, found in page:
            identity = lead_id if type(lead_id) is int else self._dumps(lead_id)
            if isinstance(found, Shape):
                yield f'{{"lead_id":{identity}{self._shape(found)}'
            else:
                yield self._lead(found)

    def _lead(self, plan: LeadPlan) -> str:
        return self._dumps(lead_plan_json(plan))

    def _encode_shape(self, shape: Shape) -> str:
        """What stands after the id."""
        routing = shape.routing
        deliveries = ",".join([self._delivery(route, via) for route, via in routing.routes])
        skips = ",".join(map(self._skip, routing.skips))
        return (
            f',"external_entity_id":{self._dumps(shape.entity)},"external_project_id":{self._dumps(shape.project)}'
            f',"deliveries":[{deliveries}],"already_delivered":[],"skipped":[{skips}]'
            f',"warnings":{self._dumps(routing.warnings)}}}'
        )

    def _delivery(self, route: OpenRoute, via: Via) -> str:
        def make() -> Any:
            return planned_json(PlannedDelivery(0, route.account, route.destination, via, PlanState.NEW))

        return self._piece((route.account.credential_id, via, ""), make)

    def _skip(self, skip: Skip) -> str:
        key = (skip.account.credential_id, skip.via, f"{skip.reason} {skip.detail}")
        return self._piece(key, lambda: skip_json(skip))

    def _piece(self, key: tuple[CredentialId, Via, str], make: Callable[[], Any]) -> str:
        text = self._pieces.get(key)
        if text is None:
            if len(self._pieces) >= _PIECES:
                self._pieces.clear()
            text = self._pieces[key] = self._dumps(make())
        return text
