"""Lightning callbacks: thin adapters between the Trainer and spikelens."""
