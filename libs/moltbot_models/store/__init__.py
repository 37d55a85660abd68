"""The models of one installation: what was added, from where, with which hashes, and how it passed its gate."""
