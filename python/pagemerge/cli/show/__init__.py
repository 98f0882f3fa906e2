"""The output of verbs: words for figures, tables, progress, and whole answers."""
