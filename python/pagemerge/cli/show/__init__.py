"""What verbs print: words for figures, tables, progress, and whole answers."""
