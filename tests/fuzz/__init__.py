"""Strangers who say and do anything to a hub, as several users, and what bystanders wait beside.

``hostile`` is a process that talks (``talk``), floods and falls silent (``acts``), and has children
that become others (``changes``); ``descriptors`` and ``endless`` make what it hands over.
``campaign`` runs a hub, bystanders (``waiting``) and such processes, and ``report`` tells.
"""
