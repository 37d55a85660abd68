"""Recipe of the tiny model that the repository ships: synthetic dialogues, training on a CPU, evaluation."""
