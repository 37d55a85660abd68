"""Model files of other kinds, turned offline into the Hugging Face directory that the engine reads."""
