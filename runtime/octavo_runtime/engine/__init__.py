"""The engine process: one loop that schedules, computes and reports; and the API process's handle on it."""
