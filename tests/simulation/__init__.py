"""Whole servers, their clients and their store in one thread, with time and faults of one seed's making.

The chat floor and the network floor are the real ones; what stands below and around them is in memory.
"""
