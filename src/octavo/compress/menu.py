"""The fixed-width formats that a budget of memory may be spent on; `benchmarks/quality.py` shows what they reach.

Of the codebooks at 4 bits, k-means in blocks of 64 under signed 8-bit logarithmic scales lost least, by the Fisher-
weighted error on layers of the embedded model, ahead of Lloyd-Max and cube-root densities and of integers.
"""

MENU = (
    "lloyd@1 b64 search:s8",
    "lloyd(levels=3) b64 search:s8",
    "lloyd@2 b64 search:s8",
    "lloyd(levels=6) b64 search:s8",
    "lloyd@3 b64 search:s8",
    "lloyd(levels=12) b64 search:s8",
    "lloyd@4 b64 search:s8",
    "lloyd@5 b64 search:s8",
    "lloyd@6 b64 search:s8",
    "int@8 b64 search:bf16",
)
