"""Gradient-free maximizers over discrete multi-indices, one algorithm a file."""
