"""Proof by crashes: leadctl is killed at every point, and what the vendors have is counted."""
