"""The router: which models may answer a request, and in which order."""
