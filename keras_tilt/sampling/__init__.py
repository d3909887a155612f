"""Draws of p."""
