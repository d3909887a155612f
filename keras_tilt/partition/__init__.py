"""Partition functions Z."""
