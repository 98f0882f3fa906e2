"""pagemerge as a service: both engines under one daemon, reloading, and the local API.

The daemon starts each engine as a process of its own, so that a fault of one ends neither the other
nor the daemon.
"""
