"""Sparse matrices times one vector or a few: fully connected layers."""
