"""Scans of leaky integrate-and-fire neurons over time: one interface, several backends."""
