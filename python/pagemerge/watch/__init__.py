"""Shows what both engines do, now and over time: figures, history, metrics, the local API, views.

``collect`` reads, ``model`` says what is read; everything else shows or keeps it.
"""
