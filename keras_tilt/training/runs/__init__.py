"""A training in phases: its course, its state, its signals, and its workers."""
