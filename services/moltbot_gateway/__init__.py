"""The gateway: the public API, authentication, admission and the way of one request."""
