"""What the model learns, one file a skill: phrasings to train on, phrasings held out, and values to put into them."""
