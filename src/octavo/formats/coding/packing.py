"""Dense packing of codes of any alphabet of 2 to 256 levels.

The layout, byte by byte (octavo.kernels.layout holds the rule in code):

- `levels = 2**w`: code i occupies bits [i*w, (i+1)*w) of one little-endian bit stream (bit 0 is the least significant
  bit of byte 0). The last byte is filled up with zero bits. At 4 bits, byte j holds code 2j in its low and code 2j + 1
  in its high half; at 3 bits, bytes 0 to 2 hold codes 0 to 7 as one 24-bit little-endian number.
- Other alphabets: each run of k codes is a base-`levels` number c_0 + c_1*levels + ... + c_(k-1)*levels**(k-1), stored
  in m little-endian bytes. (k, m) with m <= 8 minimizes 8m/k, the smallest m on ties: (5, 1) for 3 levels, (16, 7) for
  11. The last run, of r < k codes, takes the fewest bytes that hold levels**r values.

Neither rows nor blocks are padded: codes of consecutive rows run on.
"""

from octavo.kernels import pack, packed_bytes, unpack

__all__ = ["pack", "packed_bytes", "unpack"]
