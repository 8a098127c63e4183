"""The formats that run every contract: a new element, scale type or complete format joins with one row here."""

from __future__ import annotations

FIXED_WIDTH = (
    "cbrt-normal@4 b64 absmax:bf16",
    "cbrt-normal(variant=asymmetric)@3 b16 absmax:fp32",
    "cbrt-normal(levels=11) b32 signmax:bf16",
    "cbrt-laplace@2 b64 signmax:fp32",
    "cbrt-laplace(alpha=0.5)@3 channel rms:fp16",
    "cbrt-t(df=5)@3 b64 search:s8",
    "cbrt-t(df=5,levels=6) b64 absmax:fp32",
    "cbrt-t(df=fit)@3 tensor rms:fp32",
    "cbrt-t(df=fit)@4 b32 search:bf16",
    "cbrt-t(df=7)@1 channel absmean:fp32",
    "lloyd@3 b64 absmax:bf16",
    "lloyd(levels=5) tensor search:fp32",
    "lloyd-normal@4 b64 absmax:fp32",
    "lloyd-laplace@3 tensor rms:bf16",
    "lloyd-t(df=5)@2 b32 signmax:bf16",
    "int@8 channel absmax:fp32",
    "int@4 b32 search:fp16",
    "int(levels=3) b64 absmean:bf16",
    "int(levels=15) b64 absmax:e8m0",
    "nf4 b64 absmax:u8",
    "sf4 b64 absmax:fp32",
    "e2m1 b16 absmax:e4m3",
    "e4m3 tensor absmax:fp32",
    "e5m2 channel absmax:bf16",
    "e3m2 b7 search:e5m2",
    "e2m3 b32 search:e8m0",
    "cbrt-t(df=5)@3 b64 absmax:bf16 outliers=0.01",
    "lloyd@2 tensor rms:bf16 outliers=0.02",
    "columns(int@8=16,lloyd@4=40,lloyd@3) b16 search:s8",
    "columns(int@4=1,lloyd(levels=3)=64,cbrt-t(df=5,levels=6)) channel absmax:bf16",
    "lattice-z@4 b64 search:s8",
    "lattice-d4@3 b16 absmax:bf16",
    "lattice-e8@2 b64 search:s8",
    "lattice-e8@4 channel rms:fp32",
    "glvq(d=8)@2 channel rms:u8",
    "glvq(d=8)@3 b64 absmax:s8",
    "glvq(d=16)@1 tensor absmax:bf16",
    "glvq(d=8,widths=unequal)@2 channel absmax:e4m3",
    "mxfp4",
    "mxfp6-e2m3",
    "mxfp6-e3m2",
    "mxfp8-e4m3",
    "mxfp8-e5m2",
    "mxint8",
    "mxint4",
    "nvfp4",
)
"""Every contract applies to these."""

ENTROPY_CODED = (
    "grid@3.0 tensor rms:fp32 ans",
    "grid(step=0.0131) separable ans",
    "grid@2.5 separable ans",
    "grid(states=8)@2.5 separable ans",
    "grid(step=0.5,states=64) channel rms:bf16 ans",
    "cbrt-t(df=5)@4 b64 absmax:bf16 ans",
)
"""Their strings keep the grammar's contracts; their size depends on the data."""

WIDTHS = (
    ("cbrt-t(df=5)@{} b64 absmax:bf16", range(1, 9)),
    ("lloyd@{} b32 absmax:fp32", range(1, 6)),
    ("int@{} b32 search:bf16", range(2, 9)),
    ("cbrt-normal@{} tensor rms:fp32", range(1, 8)),
    ("lattice-d4@{} b64 search:bf16", range(1, 9)),
    ("lattice-e8@{} channel rms:bf16", range(1, 9)),
    ("glvq(d=8)@{} channel rms:bf16", range(1, 7)),
)
"""Families whose error falls with every bit."""
