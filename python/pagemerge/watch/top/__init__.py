"""The live view, ``pagemerge top``: ``source`` brings moments, ``app`` shows them.

``recent``, ``lines`` and ``words`` work out what to show; ``pagemerge top --once`` prints the same,
so these three need no textual. All text that came from outside goes through ``text.plain``.
"""
