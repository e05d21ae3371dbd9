"""Hostile bytes for the ground floor, hostile peers for a running server; ``python -m tests.fuzz`` is long.

What a good client meets is tested elsewhere.
"""
