"""Maximizers over discrete multi-indices, one algorithm a file; gradient-free but for one."""
