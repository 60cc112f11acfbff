"""Use cases: plain functions, no printing."""
