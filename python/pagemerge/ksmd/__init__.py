"""The kernel engine: Linux's ksmd merges, and pagemerge decides for which processes, when, and how
fast.

``governor`` runs the loop, ``enrolment`` opts processes in and out by rules, ``attach`` does that
to one process, ``selecting`` finds the ranges that are worth it, ``decide`` holds the policies.
"""
