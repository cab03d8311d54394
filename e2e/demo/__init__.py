"""`make demo`: from nothing to an answered chat request, a scale-up and a scale-down, with every step shown."""
