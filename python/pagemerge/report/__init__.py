"""Writes the figures of a scan as one self-contained page of HTML (``scan --report FILE``).

``page.write`` is the door. Each section of the page is a module with a function
``section(figures, room)``, which turns figures into words and shapes; templates draw them.
"""
