"""Who sends waits for who plans."""

import asyncio

from leadctl.services.written import Written


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_waits_until_the_credential_has_more() -> None:
    async def main() -> None:
        written = Written()
        waiting = asyncio.create_task(written.beyond(7, 4))
        await asyncio.to_thread(written.page, [(8, 1), (8, 9)])
        await asyncio.to_thread(written.page, [(7, 4)])
        await _settle()
        assert not waiting.done(), "that was there already"
        await asyncio.to_thread(written.page, [(7, 5), (7, 6)])
        assert await waiting == 6
        assert await written.beyond(8, 1) == 9

    asyncio.run(main())


def test_the_end_and_a_stop_let_everybody_go() -> None:
    async def main(ends: str) -> bool:
        written = Written()
        waiting = [asyncio.create_task(written.beyond(number, -1)) for number in (7, 8)]
        await _settle()
        getattr(written, ends)()
        assert await asyncio.gather(*waiting) == [None, None]
        assert await written.beyond(9, -1) is None
        return written.abandoned

    assert [asyncio.run(main(ends)) for ends in ("end", "release", "abandon")] == [False, False, True]
