"""Emulated vendors over real sockets, on loopback: strict, with faults, and a judge. One file a vendor."""
