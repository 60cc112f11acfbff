"""The asyncio engine. Knows no vendor and no SQL."""
