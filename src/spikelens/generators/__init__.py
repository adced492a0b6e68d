"""Discretised latent spaces: integer multi-indices in, images out."""
