"""A trace of requests played against the production `decide` and a model of the fleet, in simulated time."""
