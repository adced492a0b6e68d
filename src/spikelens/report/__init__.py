"""Panels, tables and TensorBoard logs of what a probe found."""
