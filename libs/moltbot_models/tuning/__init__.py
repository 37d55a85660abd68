"""How fast a model is under load, and which of its options make it faster: `moltbot model bench`."""
