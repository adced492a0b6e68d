"""Spiking classifiers and image generators, each with the LightningModule that trains it."""
