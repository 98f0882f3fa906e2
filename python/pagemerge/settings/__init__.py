"""Configuration files: where each key stands, what is wrong, what each key means, a sample.

Everything here works on any tables, which are msgspec Structs; ``pagemerge.config`` has ours.
"""
