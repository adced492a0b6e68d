"""LightningDataModules that serve images in [0, 1], kept in memory as uint8."""
