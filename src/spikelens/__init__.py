"""Spikelens: show images to spiking neurons, count their spikes, find what excites them most."""
