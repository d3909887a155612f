"""Convolutional networks, and how a network is read."""
