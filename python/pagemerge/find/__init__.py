"""Finds pages that hold the same bytes: reads other processes, changes nothing.

``process`` selects processes, ``eligible`` the memory that can be merged, ``reading`` computes
digests, ``groups`` finds equal pages, ``survey`` combines these for ``pagemerge scan``.
"""
