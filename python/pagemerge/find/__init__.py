"""find: which pages hold the same bytes? Reads other processes, changes nothing.

maps -> which memory can be merged, process -> whose, groups -> which pages are equal,
survey -> all of it at once, as ``pagemerge scan`` shows it. identity -> who runs here, for rules.
"""
