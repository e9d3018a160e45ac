"""A client for OpenAI-compatible chat completions, which the judge and `kind: endpoint` share: one
connection pool and one event loop for all requests, retries, limits of time, size and money."""
