"""The API process: HTTP in OpenAI's form, text to tokens and back, probes, metrics, drain."""
