"""The fixed-width formats that a budget of memory may be spent on; `benchmarks/quality.py` is what chose them."""

MENU = (
    "lloyd@1 b64 search:bf16",
    "lloyd(levels=3) b64 search:bf16",
    "lloyd@2 b64 search:bf16",
    "lloyd(levels=6) b64 search:bf16",
    "lloyd@3 b64 search:bf16",
    "lloyd(levels=12) b64 search:bf16",
    "lloyd@4 b64 search:bf16",
    "lloyd@5 b64 search:bf16",
    "lloyd@6 b64 search:bf16",
    "int@8 b64 search:bf16",
)
