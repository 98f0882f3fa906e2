"""The demonstration: real processes with real duplicate data, merged and then examined.

``content`` finds the data, ``worker`` is the process that loads it, ``dialog`` connects processes,
``stage`` owns every process that the demo starts, ``expect`` works out beforehand what merging
should save, ``play`` runs the steps of the demo, ``outcome`` holds the result, and
``cli/show/demo.py`` prints it.
"""
