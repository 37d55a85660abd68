"""The context service: sessions, turns and prompts within a token budget."""
