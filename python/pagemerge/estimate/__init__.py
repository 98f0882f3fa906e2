"""Explains and forecasts what merging would save: by content, by holder, by domain, over time.

Pure functions over a look (``find/look.py``), and small readers of what a process is. Only reads.
"""
