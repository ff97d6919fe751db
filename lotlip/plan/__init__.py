"""Cost before work: what captioning and training will take."""
