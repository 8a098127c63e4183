"""Making text token by token: sampling, batches of requests, and text from tokens."""
