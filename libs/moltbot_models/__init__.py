"""Models: generation types, upstream protocols, the text engine, manifests and the Triton repository compiler."""
