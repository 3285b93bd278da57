"""Adapter files -> weight changes: reading and writing files, grouping keys, one file per family."""
