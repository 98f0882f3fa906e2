"""The user engine: pagemerge's own merging, by a hub and an agent in each client.

``service`` accepts connections, ``session`` serves one of them, ``hub`` runs the loop: ``looking``
finds, ``decide`` plans, ``stages`` and ``filler`` merge, ``tidy`` cleans up, ``report`` counts.
"""
