"""Rows 7 to 9: the vendors' own limits, on leadctl's emulated vendors, and a local mail server."""

import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import LEADCTL, PYTHON, Ratio, Row, Sizes, at_least, in_turn, run
from benchmarks.world import World, build

if TYPE_CHECKING:
    from leadctl.sandbox.vendor import Vendor

#: A Python that has fast-bitrix24 (``python -m venv …; pip install fast-bitrix24``); without it that peer is left out.
FAST_BITRIX24 = "LEADCTL_BENCH_FAST_BITRIX24"
#: How much faster than real ones time and limits are at the emulated portal.
BITRIX24_SCALE = 60.0
#: amoCRM's documented limit, in requests a second of an integration.
AMOCRM_RATE = 7.0
#: Bitrix24 documents 420 s of execution time in 10 minutes for a method; the emulated portal counts 0.2 s an item.
OPERATING = 420.0
OPERATING_WINDOW = 600.0


@dataclass
class _Watch:
    """When a vendor's requests came, beside the judge's own count."""

    times: list[float] = field(default_factory=list)

    def request(self, vendor: str) -> None:
        del vendor
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.times[-1] - self.times[0]


@contextmanager
def _vendor(name: str, scale: float) -> "Iterator[tuple[Vendor, _Watch]]":
    from leadctl.sandbox.server import running_sandbox

    with running_sandbox([name], scale=scale) as box:
        watch = _Watch()
        box.judge.request = watch.request  # type: ignore[method-assign]
        yield box.vendor(name), watch


def _world(folder: Path, vendor: "Vendor", leads: int, config: str) -> World:
    return build(folder, leads, [(vendor.name, vendor.credential(), vendor.settings())], config)


def _sent(world: World, vendor: "Vendor", leads: int) -> Counter[str]:
    """A whole run; how often each event was logged. Raises RuntimeError unless every lead is there once."""
    world.forget()
    log = world.folder / "log.jsonl"
    log.unlink(missing_ok=True)
    command = [
        LEADCTL,
        "--config",
        str(world.config),
        "--log-file",
        str(log),
        "-q",
        "bulk-resend",
        "--entity",
        "1",
        "--yes",
    ]
    run(command, folder=world.folder)
    _check(vendor, leads)
    return Counter(json.loads(line)["event"] for line in log.read_text().splitlines())


def _check(vendor: "Vendor", leads: int) -> None:
    there = vendor.judge.by_lead(vendor.name)
    if len(there) != leads or set(there.values()) != {1}:
        raise RuntimeError(f"{leads} leads were to be there once: {len(there)} are, {sum(there.values())} times")


def amocrm(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 7."""
    leads = 5 * sizes.bulk
    with _vendor("amocrm", 1.0) as (vendor, watch):
        config = f"[limits.amocrm]\nrate = {AMOCRM_RATE}\n"
        events = _sent(_world(folder / "amocrm", vendor, leads, config), vendor, leads)
    arithmetic = (len(watch.times) - 1) / AMOCRM_RATE
    ratio = arithmetic / watch.seconds
    refused = events["throttled"]
    verdict = at_least(ratio, 0.95) if not refused else "short: there was a 429"
    return [
        Row("7", f"amoCRM, {leads:,} leads with a note, {AMOCRM_RATE:g} requests/s, to the limit's arithmetic",
            "≥ 0.95 ×, no 429", f"{ratio:.2f} ×, {refused} times a 429", verdict,
            f"{len(watch.times)} requests in {watch.seconds:.1f} s, {arithmetic:.1f} s at the limit; "
            f"{leads / watch.seconds:,.0f} leads/s"),
    ]  # fmt: skip


def bitrix24(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 8."""
    leads = 5 * sizes.bulk // 2
    with _vendor("bitrix24", BITRIX24_SCALE) as (vendor, watch):
        config = f"[limits]\nscale = {BITRIX24_SCALE}\n[limits.bitrix24]\nrate = 2\n"
        _sent(_world(folder / "bitrix24", vendor, leads, config), vendor, leads)
        seconds = watch.seconds
    a_window = OPERATING / 0.2
    pauses = (leads - 1) // a_window
    arithmetic = pauses * OPERATING_WINDOW / BITRIX24_SCALE + leads % a_window / 50 / (2 * BITRIX24_SCALE)
    ratio = arithmetic / seconds
    return [
        Row("8", f"Bitrix24, {leads:,} leads, to the arithmetic of {OPERATING:g} s of `operating` in 10 minutes",
            "≥ 0.95 ×", f"{ratio:.2f} ×", at_least(ratio, 0.95),
            f"{seconds:.1f} s, {arithmetic:.1f} s by the limits; {BITRIX24_SCALE:g} times as fast as real ones"),
        _fast_bitrix24(folder, 4 * sizes.bulk // 5),
    ]  # fmt: skip


def _fast_bitrix24(folder: Path, leads: int) -> Row:
    """In real time, since its own waits know no scale; and as many as neither must wait for `operating`."""
    what = f"{leads:,} leads, both with their default policies, to fast-bitrix24, which does not reconcile"
    python = os.environ.get(FAST_BITRIX24)
    if python is None:
        return Row("8", what, "≥ 1.0 ×", "–", "not measured", f"name a Python that has it in {FAST_BITRIX24}")
    with _vendor("bitrix24", 1.0) as (vendor, watch):
        _sent(_world(folder / "default", vendor, leads, ""), vendor, leads)
        ours = watch.seconds
    with _vendor("bitrix24", 1.0) as (vendor, watch):
        url = str(vendor.credential()["webhook_url"])
        run([python, str(Path(__file__).with_name("peers.py")), "bitrix24", url, str(leads)], folder=folder)
        made = len(getattr(vendor, "items")[1])  # noqa: B009 a Vendor in general has none
        theirs = watch.seconds
    if made != leads:
        raise RuntimeError(f"fast-bitrix24 was to make {leads} leads, and made {made}")
    return Row("8", what, "≥ 1.0 ×", f"{theirs / ours:.2f} ×", at_least(theirs / ours, 1.0),
               f"{ours:.1f} s to {theirs:.1f} s, first request to last")  # fmt: skip


def smtp(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 9."""
    from leadctl.channels import channel_class

    connections = channel_class("email").spec.concurrency
    leads = max(50, sizes.bulk)
    with _vendor("email", 1000.0) as (vendor, _):
        config = "[limits]\nscale = 100.0\n[limits.email]\nrate = 20\n"
        world = _world(folder / "email", vendor, leads, config)
        size = 0

        def ours() -> float:
            nonlocal size
            found = _timed(vendor, lambda: _run(world))
            size = len(getattr(vendor, "messages")[-1])  # noqa: B009 a Vendor in general has none
            return found

        data = vendor.credential()
        more = (data["host"], data["port"], data["username"], data["password"], leads, connections)

        def bare() -> float:
            command = [PYTHON, "-m", "benchmarks.peers", "smtp", *map(str, (*more, size))]
            return _timed(vendor, lambda: run(command, folder=folder))

        mine, theirs = in_turn(sizes.rounds, ours, bare)
    ratio = Ratio.of(mine, theirs)
    return [
        Row("9", f"SMTP to a local server, {leads:,} messages to 2 recipients, {connections} kept connections, to a "
            "bare aiosmtplib loop", "≥ 0.8 ×", str(ratio), at_least(ratio.value, 0.8),
            f"{statistics.median(mine):,.0f}/s to {statistics.median(theirs):,.0f}/s"),
    ]  # fmt: skip


def _run(world: World) -> None:
    world.forget()
    command = [LEADCTL, "--config", str(world.config), "bulk-resend", "--entity", "1", "--yes", "--quiet"]
    run(command, folder=world.folder)


def _timed(vendor: "Vendor", action: Callable[[], Any]) -> float:
    """Messages a second that were made meanwhile, first to last."""
    before = len(vendor.judge.creations()) + len(vendor.judge.twins(vendor.name))
    action()
    made = sorted(creation.at for creation in [*vendor.judge.creations(), *vendor.judge.twins(vendor.name)])[before:]
    return (len(made) - 1) / (made[-1] - made[0])


ROWS: Mapping[str, Callable[[Sizes, Path], list[Row]]] = {"7": amocrm, "8": bitrix24, "9": smtp}
