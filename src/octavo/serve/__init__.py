"""An OpenAI-compatible server over the decoder, and conversations in the terminal.

One thread owns the engine and steps it (`scheduler`). The HTTP edge is asyncio and never touches the engine: a request
becomes a job of the scheduler, and what each step makes of it comes back as pieces of text.
"""
