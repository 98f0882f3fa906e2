"""Which pages hold the same bytes? Reads other processes, changes nothing.

``process`` -> whose memory, ``eligible`` -> which of it can be merged, ``reading`` -> digests,
``groups`` -> which pages are equal, ``survey`` -> all of it, as ``pagemerge scan`` shows it.
"""
