"""Batches that a vendor refuses as a whole, and their size."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from leadctl.channelkit.spec import Step
from leadctl.domain.errors import DeliveryError, Rejected, Split, Unusable
from leadctl.domain.model import Delivery

T = TypeVar("T")


def without(
    batch: Sequence[Delivery], refused: Mapping[str, DeliveryError], *, executed_maybe: bool = False
) -> DeliveryError:
    """The error of a batch of which these were refused by name: Split, or of a batch of one, its own.

    Where all were refused and the configuration is to blame, that is the error of the whole.
    """
    worst = next((error for error in refused.values() if isinstance(error, Unusable)), None)
    if len(refused) == len(batch) and (worst or len(batch) == 1):
        return worst or refused[batch[0].key]
    return Split(f"{len(refused)} of {len(batch)} are refused", refused=refused, executed_maybe=executed_maybe)


def each(batch: Sequence[Delivery], build: Callable[[Delivery], T]) -> list[T]:
    """What is sent for each delivery. Raises as :func:`without` where a template fails for some of the leads."""
    built: list[T] = []
    refused: dict[str, DeliveryError] = {}
    for delivery in batch:
        try:
            built.append(build(delivery))
        except Rejected as error:
            refused[delivery.key] = error
    if refused:
        raise without(batch, refused)
    return built


class AdaptiveSizes:
    """How many deliveries the next request of each step takes: halved when it was too much, then slowly up again."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._sizes = {step.name: step.batch for step in steps}

    def of(self, step: Step) -> int:
        return self._sizes[step.name]

    def too_much(self, step: Step, count: int) -> None:
        self._sizes[step.name] = max(1, min(count, self._sizes[step.name]) // 2)

    def worked(self, step: Step) -> None:
        self._sizes[step.name] = min(step.batch, self._sizes[step.name] + 1)
