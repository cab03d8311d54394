"""What answers for a ModelServer without a replica: it holds requests until one serves, and passes them on."""
