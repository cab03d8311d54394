"""What the demo and the end-to-end tests share: a client for chat streams, load, and reading a ModelServer's state."""
