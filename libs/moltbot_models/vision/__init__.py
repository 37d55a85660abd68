"""Images for text models: encoded files become the rows that stand in the place of a prompt's image tokens.

Runs inside Triton's Python backend, too: openvino, numpy and Pillow alone, imported when an encoder is loaded.
"""
