"""Simulate whole nodes in one process: virtual time, seeded network, disks in memory.

Nothing here knows how dizzyd works inside; it knows only the interfaces that a node stands on.
"""
