"""Activation maximization: neurons, their activations, and the search for what excites them."""
