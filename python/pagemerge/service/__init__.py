"""pagemerge as a service: what runs in the background on a host, and how programs talk to it."""
"""Runs pagemerge as a service: both engines under one daemon, and reloading their settings.

The daemon starts each engine as a process of its own, so that a fault of one ends neither the other
nor the daemon.
"""
