"""Octavo's runtime: an OpenAI-compatible server on a continuously batching engine with a paged KV cache."""
