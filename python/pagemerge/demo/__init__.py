"""The demonstration: real processes with real duplicate data, merged and then examined.

``content`` finds the data, ``worker`` is the process that loads it, ``dialog`` how the two talk,
``stage`` owns every process that the demo starts, ``expect`` works out beforehand what should be
saved, ``play`` is the sequence of acts, ``outcome`` what came of it, ``show`` how it is told.
"""
