"""Where tensors live: the model's forward pass and the sampler."""
