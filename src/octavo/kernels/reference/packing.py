"""Packing codes into bytes and back in plain torch (layout: octavo.kernels.layout)."""

from __future__ import annotations

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from octavo.base.errors import FormatError
from octavo.kernels.layout import layout_of, packed_bytes


def pack(codes: UInt8[Tensor, " n"], levels: int) -> UInt8[Tensor, " bytes"]:
    """Pack codes below `levels`; FormatError where a code is not."""
    layout = layout_of(levels)
    count = codes.numel()
    if count and int(codes.max()) >= levels:
        raise FormatError(f"a code is not below {levels}", "quantize with the codebook that the codes are packed for")
    groups = -(-count // layout.digits)
    padded = torch.zeros(groups * layout.digits, dtype=torch.uint8, device=codes.device)
    padded[:count] = codes
    digits = padded.view(groups, layout.digits)
    # Numbers up to 2**64 - 1 wrap into int64; the bytes below come out the same.
    numbers = torch.zeros(groups, dtype=torch.int64, device=codes.device)
    for index in reversed(range(layout.digits)):
        numbers = numbers * levels + digits[:, index]
    shifts = 8 * torch.arange(layout.bytes, device=codes.device)
    return ((numbers.unsqueeze(1) >> shifts) & 255).to(torch.uint8).flatten()[: packed_bytes(count, levels)]


def unpack(packed: UInt8[Tensor, " bytes"], levels: int, count: int) -> UInt8[Tensor, " {count}"]:
    """The first `count` codes of a packed stream of exactly `packed_bytes(count, levels)` bytes."""
    layout = layout_of(levels)
    groups = -(-count // layout.digits)
    padded = torch.zeros(groups * layout.bytes, dtype=torch.uint8, device=packed.device)
    padded[: packed.numel()] = packed
    stream = padded.view(groups, layout.bytes)
    numbers = torch.zeros(groups, dtype=torch.int64, device=packed.device)
    for index in range(layout.bytes):
        numbers |= stream[:, index].to(torch.int64) << (8 * index)
    codes = torch.empty(groups, layout.digits, dtype=torch.uint8, device=packed.device)
    for index in range(layout.digits):
        quotients = _unsigned_quotient(numbers, levels)
        codes[:, index] = (numbers - quotients * levels).to(torch.uint8)
        numbers = quotients
    return codes.flatten()[:count]


def _unsigned_quotient(numbers: Int64[Tensor, " n"], divisor: int) -> Int64[Tensor, " n"]:
    """Floor of numbers / divisor, the bits read as unsigned; torch divides signed only, hence by 32-bit halves."""
    mask = 0xFFFFFFFF
    high = (numbers >> 32) & mask
    low = ((high % divisor) << 32) | (numbers & mask)
    return ((high // divisor) << 32) + low // divisor
