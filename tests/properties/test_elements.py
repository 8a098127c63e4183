"""Elements: every codebook is sorted, sized and printable, and the analytic ones equal their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo.base.errors import FormatError
from octavo.formats.densities import exact_absmax, expected_absmax, powered
from octavo.formats.elements import ELEMENTS, STATISTICS, Element, base_statistic, expected_error, parse_element
from octavo.formats.elements.cube_root import FITTED_DF, CubeRoot
from octavo.formats.elements.floating import NAMES, Floating
from octavo.formats.elements.integer import Integer
from octavo.formats.elements.lloyd_density import LloydDensity
from octavo.formats.elements.lloyd_max import LloydMax, converge, density_start, plus_plus_start
from octavo.formats.elements.sorted_sample import SortedSample
from octavo.measure.scalar import cells, midpoints, squared_error
from octavo.measure.sources import AbsmaxScaled, Laplace, Normal, StudentT, source

BASES = ("absmax", "signmax", "rms", "absmean")
FIXED_SIZE = ("nf4", "sf4", *NAMES)

families = st.sampled_from([("normal", None), ("laplace", None), ("t", 3.0), ("t", 5.0), ("t", 7.5), ("t", 100.0)])
sizes = st.integers(2, 256)
blocks = st.sampled_from([None, 1, 2, 3, 8, 16, 32, 64, 128, 576, 4096])
cube_roots = st.builds(
    lambda family, levels, alpha, variant: CubeRoot(*family[:1], levels, family[1], alpha, variant),
    families,
    sizes,
    st.sampled_from([1 / 3, 0.0, 0.3, 0.5, 1.0, 2.0]),
    st.sampled_from(["symmetric", "asymmetric"]),
)
analytic = st.one_of(
    cube_roots,
    st.builds(lambda family, levels: LloydDensity(family[0], levels, family[1]), families, st.integers(2, 40)),
    st.builds(Integer, sizes),
    st.sampled_from(FIXED_SIZE).map(parse_element),
)


def codebook(token: str, statistic: str, block: int | None = None) -> np.ndarray:
    return parse_element(token).codebook(statistic, block).double().numpy()


@given(analytic, st.sampled_from(STATISTICS), blocks)
def test_every_codebook_is_sorted_finite_and_of_its_size(element: Element, statistic: str, block: int | None) -> None:
    found = element.codebook(statistic, block)
    assert found.dtype == torch.float32
    assert found.shape == (element.levels,)
    assert torch.isfinite(found).all()
    assert (found.diff() > 0).all()
    span = element.span(statistic, block)
    assert abs(span) > 0
    if base_statistic(statistic, block) in ("absmax", "signmax"):
        assert span in (float(found[0]), float(found[-1]), -float(found[0]))
        assert abs(span) == float(found.abs().max())


@given(analytic)
def test_every_token_reads_back_as_its_element(element: Element) -> None:
    if isinstance(element, CubeRoot) and element.levels % 2:
        element = parse_element(str(element))
    assert parse_element(str(element)) == element


@given(cube_roots, st.sampled_from(BASES), blocks)
def test_cube_root_symmetry(element: CubeRoot, statistic: str, block: int | None) -> None:
    found = element.codebook(statistic, block)
    if statistic == "signmax":
        assert found[-1] == 1
        assert found[0] > -1
        assert (found == 0).sum() == 1
        assert (found > 0).sum() == element.levels // 2
    elif element.variant == "symmetric" or element.levels % 2:
        torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=0)
        assert (found == 0).sum() == element.levels % 2
    else:
        assert (found == 0).sum() == 1
        assert (found > 0).sum() == element.levels // 2
    if statistic == "absmax" and (element.levels > 2 or element.variant == "symmetric"):
        assert (float(found[0]), float(found[-1])) == (-1, 1)


@pytest.mark.parametrize(
    ("token", "positive"),
    [
        ("cbrt-normal@3", (0.2420, 0.7460, 1.3245, 2.1142)),
        ("cbrt-laplace@3", (0.2499, 0.8601, 1.7202, 3.1906)),
        ("cbrt-t(df=7)@3", (0.2803, 0.8918, 1.7118, 3.2945)),
    ],
)
def test_rms_centroids_in_closed_form(token: str, positive: tuple[float, ...]) -> None:
    np.testing.assert_allclose(codebook(token, "rms")[4:], positive, atol=6e-5)


@pytest.mark.parametrize(
    ("token", "positive"),
    [
        ("cbrt-normal@3", (0.1070, 0.3315, 0.5970, 1)),
        ("cbrt-laplace@3", (0.0762, 0.2634, 0.5301, 1)),
        ("cbrt-t(df=7)@3", (0.0896, 0.2840, 0.5391, 1)),
    ],
)
def test_absmax_centroids_in_closed_form(token: str, positive: tuple[float, ...]) -> None:
    np.testing.assert_allclose(codebook(token, "absmax", 64)[4:], positive, atol=6e-5)


def test_variants_in_closed_form() -> None:
    asymmetric = codebook("cbrt-normal(variant=asymmetric)@3", "absmax", 64)
    np.testing.assert_allclose(asymmetric, (-1, -0.5477, -0.2540, 0, 0.1887, 0.3923, 0.6361, 1), atol=6e-5)
    signmax = codebook("cbrt-normal@3", "signmax", 64)
    np.testing.assert_allclose(signmax, (-0.6361, -0.3923, -0.1887, 0, 0.1887, 0.3923, 0.6361, 1), atol=6e-5)


def test_the_cube_root_of_a_density_stays_in_its_family() -> None:
    normal, laplace, student = (powered(source(*law), 1 / 3) for law in (("normal",), ("laplace",), ("t", 5.0)))
    assert isinstance(normal, Normal)
    assert normal.scale == pytest.approx(3**0.5)
    assert isinstance(laplace, Laplace)
    assert laplace.scale == pytest.approx(3 / 2**0.5)
    assert isinstance(student, StudentT)
    assert (student.df, student.scale) == (pytest.approx(1), pytest.approx(3**0.5))


@given(families, st.floats(0.3, 3), st.floats(-4, 4), st.floats(-4, 4))
def test_powers_of_a_density_are_proportional_to_it(family, alpha: float, x: float, y: float) -> None:
    base = source(*family)
    power = powered(base, alpha)
    ratio = power.pdf(np.array(x)) / power.pdf(np.array(y))
    assert ratio == pytest.approx(float((base.pdf(np.array(x)) / base.pdf(np.array(y))) ** alpha), rel=1e-9)


@pytest.mark.parametrize(
    ("law", "formula", "simulated"),
    [
        (("normal",), 2.455, 2.598),
        (("laplace",), 3.349, 3.352),
        (("t", 7.0), 3.027, 3.090),
        (("t", 5.0), 3.291, 3.349),
    ],
)
def test_expected_absmax(law, formula: float, simulated: float) -> None:
    found = source(*law)
    assert expected_absmax(found, 64) == pytest.approx(formula, abs=6e-4)
    assert exact_absmax(found, 64) == pytest.approx(simulated, rel=3e-3)
    for block in (1, 4, 15, 16, 64, 1024):
        assert expected_absmax(found, block) == pytest.approx(
            exact_absmax(found, block), rel=0.14 if block < 64 else 0.1
        )
    assert exact_absmax(found, 1) == pytest.approx(found.mean_absolute, rel=1e-3)


@pytest.mark.parametrize(
    ("family", "quantile", "cube_root", "optimum"),
    [
        ("normal", 0.2056, 0.0975, 0.0975),
        ("laplace", 0.3490, 0.1241, 0.1240),
        ("t(df=7)", 0.3017, 0.1248, 0.1234),
    ],
)
def test_four_bit_error_on_unit_rms_data(family: str, quantile: float, cube_root: float, optimum: float) -> None:
    law = source("t", 7.0) if family.startswith("t") else source(family)
    equal = f"cbrt-{family[:-1]},alpha=1)@4" if "(" in family else f"cbrt-{family}(alpha=1)@4"
    tokens = {equal: quantile, f"cbrt-{family}@4": cube_root, f"lloyd-{family}@4": optimum}
    for token, expected in tokens.items():
        assert squared_error(codebook(token, "rms"), law) ** 0.5 == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("law", "errors"),
    [
        (
            "normal",
            {"cbrt": 0.0891, "asymmetric": 0.0897, "signmax": 0.0876, "nf4": 0.0920, "int": 0.1076, "e2m1": 0.1057},
        ),
        (
            "t(df=5)",
            {"cbrt": 0.1017, "asymmetric": 0.1025, "signmax": 0.1009, "nf4": 0.1047, "int": 0.1459, "e2m1": 0.1124},
        ),
    ],
)
def test_four_bit_error_on_absmax_blocks(law: str, errors: dict[str, float]) -> None:
    data = source("normal") if law == "normal" else source("t", 5.0)
    asymmetric = "cbrt-normal(variant=asymmetric)@4" if law == "normal" else "cbrt-t(df=5,variant=asymmetric)@4"
    tokens = {"cbrt": f"cbrt-{law}@4", "asymmetric": asymmetric, "int": "int(variant=symmetric)@4"}
    for name, expected in errors.items():
        element = parse_element(f"cbrt-{law}@4" if name == "signmax" else tokens.get(name, name))
        found = expected_error(element, "signmax" if name == "signmax" else "absmax", 64, data)
        assert found is not None
        assert found**0.5 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("family", "constant"), [("normal", 1.6495), ("laplace", 2.1213), ("t(df=7)", 2.1848), ("t(df=5)", 2.5651)]
)
def test_many_centroids_reach_panter_and_dite(family: str, constant: float) -> None:
    """R·2^b tends to sqrt(I³/12), I the integral of the cube root of the density."""
    law = source("t", float(family[5:-1])) if family.startswith("t") else source(family)
    for kind, tolerance in (("cbrt", 0.035), ("lloyd", 0.025)):
        found = squared_error(codebook(f"{kind}-{family}@8", "rms"), law) ** 0.5 * 256
        assert found == pytest.approx(constant, rel=tolerance)
    narrower = squared_error(codebook(f"lloyd-{family}@6", "rms"), law) ** 0.5 * 64
    wider = squared_error(codebook(f"lloyd-{family}@8", "rms"), law) ** 0.5 * 256
    assert narrower < wider < constant


@pytest.mark.parametrize("family", ["normal", "laplace", "t(df=7)"])
def test_cube_root_centroids_have_the_density_of_numerical_lloyd_max(family: str) -> None:
    """Where half the centroids are, and where a tenth, is the same for both."""
    law = source("t", 7.0) if family.startswith("t") else source(family)
    optimum = codebook(f"lloyd-{family}@8", "rms")
    ranks = (np.arange(256) + 1) / 257
    np.testing.assert_allclose(powered(law, 1 / 3).cdf(optimum), ranks, atol=0.012)


@given(families, st.integers(2, 64))
def test_density_driven_lloyd_max_is_a_fixed_point(family, levels: int) -> None:
    """Each centroid is the mean of its cell, so the error is orthogonal to the estimate: MSE = E[x²] - E[q²]."""
    law = source(*family)
    found = LloydDensity(family[0], levels, family[1]).codebook("rms", None).double().numpy()
    mass, mean = cells(found, law)
    np.testing.assert_allclose(mean, mass * found, atol=2e-6)
    assert squared_error(found, law) == pytest.approx(1 - float(mass @ found**2), abs=1e-6)
    start = CubeRoot(family[0], levels, family[1]).codebook("rms", None).double().numpy()
    assert squared_error(found, law) <= squared_error(start, law) + 1e-7


@pytest.mark.parametrize("family", [("normal", None), ("t", 5.0)])
@pytest.mark.parametrize("statistic", ["absmax", "signmax"])
def test_density_driven_lloyd_max_beats_the_cube_root_on_blocks(family, statistic: str) -> None:
    law = source(*family)
    ours, theirs = (
        expected_error(kind(family[0], 16, family[1]), statistic, 64, law) for kind in (LloydDensity, CubeRoot)
    )
    assert ours is not None
    assert theirs is not None
    assert ours < theirs


@given(st.integers(2, 24), st.integers(0, 2**32 - 1), st.booleans())
def test_lloyd_steps_never_raise_the_error(levels: int, seed: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = source("t", 4.0).sample(500, generator)
    weights = torch.rand(500, generator=generator) if weighted else None
    sample = SortedSample.of(values, weights)
    centroids = torch.randn(levels, generator=generator, dtype=torch.float64).sort().values.numpy()
    for _ in range(20):
        moved = sample.means(centroids)
        assert (np.diff(moved) >= 0).all()
        assert sample.error(moved) <= sample.error(centroids) * (1 + 1e-9) + 1e-9
        centroids = moved


def test_cells_of_a_sorted_sample_equal_brute_force(generator: torch.Generator) -> None:
    values = torch.randn(300, generator=generator)
    weights = torch.rand(300, generator=generator)
    centroids = torch.tensor([-1.0, -0.2, 0.1, 1.5, 9.0])
    nearest = (values[:, None] - centroids).abs().argmin(1)
    sample = SortedSample.of(values, weights)
    brute = (weights * (values - centroids[nearest]) ** 2).sum()
    assert sample.error(centroids.double().numpy()) == pytest.approx(float(brute), rel=1e-5)
    means = [
        float((weights * values)[nearest == k].sum() / weights[nearest == k].sum()) if (nearest == k).any() else 9.0
        for k in range(5)
    ]
    np.testing.assert_allclose(sample.means(centroids.double().numpy()), means, rtol=1e-5)


def test_ties_go_to_the_lower_centroid() -> None:
    sample = SortedSample.of(torch.tensor([0.5, 0.5, 2.0]), None)
    assert sample.edges(np.array([0.0, 1.0])).tolist() == [0, 2, 3]


@given(st.integers(2, 40), st.sampled_from(["rms", "absmax"]), st.booleans())
def test_fitted_centroids_are_the_means_of_their_cells(levels: int, statistic: str, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(levels)
    values = source("laplace").sample(4000, generator)
    if statistic == "absmax":
        blocks = values.reshape(-1, 50)
        values = (blocks / blocks.abs().amax(1, keepdim=True)).flatten()
    weights = torch.rand(4000, generator=generator) if weighted else None
    element = LloydMax(levels)
    found = element.fit(values, weights, statistic, 50)
    assert found.shape == (levels,)
    assert (found.diff() > 0).all()
    torch.testing.assert_close(found, element.fit(values, weights, statistic, 50), rtol=0, atol=0)
    centroids = found.double().numpy()
    sample = SortedSample.of(values, weights)
    np.testing.assert_allclose(sample.means(centroids), centroids, atol=1e-4)
    uniform = np.linspace(float(values.min()), float(values.max()), levels)
    assert sample.error(centroids) <= sample.error(uniform)


def test_a_fit_beats_every_analytic_codebook_on_its_data(generator: torch.Generator) -> None:
    values = source("t", 5.0).sample(2**15, generator)
    sample = SortedSample.of(values, None)
    fitted = sample.error(LloydMax(16).fit(values, None, "rms", None).double().numpy())
    for token in ("lloyd-t(df=5)@4", "cbrt-t(df=5)@4", "cbrt-normal@4", "cbrt-laplace@4"):
        assert fitted < sample.error(codebook(token, "rms"))


def test_both_starts_of_a_fit_lead_to_the_same_error(generator: torch.Generator) -> None:
    sample = SortedSample.of(source("normal").sample(2**14, generator), None)
    errors = [sample.error(converge(sample, start(sample, 8))) for start in (plus_plus_start, density_start)]
    assert errors[0] == pytest.approx(errors[1], rel=2e-3)


@pytest.mark.parametrize("values", [torch.zeros(10), torch.full((1,), -3.0), torch.tensor([1.0, 1.0, 2.0])])
def test_fits_of_few_distinct_values_are_exact(values: torch.Tensor) -> None:
    for weights in (None, torch.zeros_like(values), torch.ones_like(values)):
        found = LloydMax(8).fit(values, weights, "rms", None)
        assert torch.isfinite(found).all()
        assert (found.diff() >= 0).all()
        if weights is None or weights.any():
            assert SortedSample.of(values, None).error(found.double().numpy()) == pytest.approx(0, abs=1e-9)


def test_bad_fits_say_so() -> None:
    with pytest.raises(FormatError, match="no values"):
        LloydMax(4).fit(torch.zeros(0), None, "rms", None)
    with pytest.raises(FormatError, match="finite"):
        LloydMax(4).fit(torch.zeros(2), torch.tensor([1.0, float("nan")]), "rms", None)
    with pytest.raises(FormatError, match="fitted"):
        LloydMax(4).codebook("rms", None)
    with pytest.raises(FormatError, match="fitted"):
        parse_element("cbrt-t(df=fit)@3").codebook("rms", None)


@pytest.mark.parametrize("statistic", ["rms", "absmean", "absmax"])
def test_degrees_of_freedom_are_found(statistic: str, generator: torch.Generator) -> None:
    element = parse_element("cbrt-t(df=fit)@4")
    assert element.data_driven
    for df in (FITTED_DF[2], FITTED_DF[-1]):
        blocks = source("t", df).sample(2**16, generator).reshape(-1, 64)
        if statistic == "absmax":
            scale = blocks.abs().amax(1, keepdim=True)
        elif statistic == "rms":
            scale = blocks.square().mean().sqrt()
        else:
            scale = blocks.abs().mean()
        values = (blocks / scale).flatten()
        sample = SortedSample.of(values, None)
        found = sample.error(element.fit(values, None, statistic, 64).double().numpy())
        for other in FITTED_DF[::3]:
            known = CubeRoot("t", 16, other)
            theirs = known.codebook(statistic, 64).double().numpy() / known.span(statistic, 64)
            assert found <= sample.error(theirs) * (1 + 1e-6)


def test_student_t_tends_to_normal() -> None:
    for statistic, block in (("rms", None), ("absmax", 64), ("signmax", 128)):
        np.testing.assert_allclose(
            codebook("cbrt-t(df=1000000)@4", statistic, block), codebook("cbrt-normal@4", statistic, block), atol=1e-4
        )


@pytest.mark.parametrize("family", [("normal", None), ("laplace", None), ("t", 5.0)])
def test_alpha_one_gives_every_centroid_the_same_number_of_weights(family) -> None:
    found = CubeRoot(family[0], 16, family[1], alpha=1.0).codebook("rms", None).double().numpy()
    mass, _ = cells(found, source(*family))
    np.testing.assert_allclose(mass[2:-2], 1 / 17, rtol=0.06)


def test_alpha_zero_is_a_uniform_grid() -> None:
    for statistic, block in (("absmax", 64), ("rms", None)):
        steps = np.diff(codebook("cbrt-normal(alpha=0)@4", statistic, block))
        np.testing.assert_allclose(steps, steps.mean(), rtol=1e-5)
    # Max (1960): the best uniform 16-level step on a unit normal is 0.3352.
    assert np.diff(codebook("cbrt-normal(alpha=0)@4", "rms"))[0] == pytest.approx(0.3352, abs=1e-4)


def test_max_1960_table() -> None:
    np.testing.assert_allclose(codebook("lloyd-normal@3", "rms")[4:], (0.2451, 0.7560, 1.344, 2.152), atol=6e-4)
    np.testing.assert_allclose(codebook("lloyd-normal@1", "rms")[1:], (0.7980,), atol=6e-4)


@given(st.sampled_from([("normal", None), ("laplace", None), ("t", 5.0)]), st.sampled_from([4, 64]))
def test_the_law_of_absmax_scaled_weights_is_a_law(family, block: int) -> None:
    law = AbsmaxScaled.of(source(*family), block)
    grid = np.linspace(-1, 1, 4001)
    inner = (grid[1:] + grid[:-1]) / 2
    width = grid[1] - grid[0]
    np.testing.assert_allclose(law.cdf(np.array([-np.inf, -1, 0, 1, np.inf])), (0, 0, 0.5, 1, 1), atol=1e-9)
    np.testing.assert_allclose(np.cumsum(law.pdf(inner)) * width, law.cdf(grid[1:]), atol=2e-4)
    np.testing.assert_allclose(np.cumsum(law.pdf(inner) * inner) * width, law.partial_mean(grid[1:]), atol=2e-4)


def test_integers() -> None:
    assert parse_element("int@4").codebook("absmax", 32).tolist() == list(range(-8, 8))
    assert parse_element("int(variant=symmetric)@4") == parse_element("int(levels=15)")
    assert parse_element("int(levels=15)").codebook("rms", None).tolist() == list(range(-7, 8))
    assert parse_element("int@1").codebook("absmean", 32).tolist() == [-1, 1]
    assert [parse_element("int@4").span(statistic, 32) for statistic in ("absmax", "signmax")] == [8, -8]
    assert parse_element("int(levels=3)").span("absmean", None) == 1
    # Max (1960): a 15-level midtread grid has its least error at step 0.3534 on a unit normal.
    assert 1 / parse_element("int(levels=15)").span("rms", None) == pytest.approx(0.3534, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_floats_are_closed_under_negation_and_doubling(name: str) -> None:
    element = parse_element(name)
    assert isinstance(element, Floating)
    values = set(element.values())
    assert values == {-value for value in values}
    assert len(values) == element.levels <= 255
    largest, normal = max(values), 2.0 ** (2 - 2 ** (element.exponent - 1))
    assert all(2 * value in values for value in values if normal <= value and 2 * value <= largest)


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("e2m1", "float4_e2m1fn"),
        ("e2m3", "float6_e2m3fn"),
        ("e3m2", "float6_e3m2fn"),
        ("e3m4", "float8_e3m4"),
        ("e4m3", "float8_e4m3fn"),
        ("e5m2", "float8_e5m2"),
    ],
)
def test_floats_equal_ml_dtypes(name: str, peer: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = getattr(ml_dtypes, peer)
    codes = np.arange(2 ** ml_dtypes.finfo(dtype).bits, dtype=np.uint8).view(dtype).astype(np.float64)
    theirs = np.unique(codes[np.isfinite(codes)])
    assert parse_element(name).codebook("absmax", 32).tolist() == theirs.tolist()


@pytest.mark.parametrize("name", ["e2m1", "e2m3", "e3m2", "e4m3", "e5m2"])
def test_floats_equal_gfloat(name: str) -> None:
    formats = pytest.importorskip("gfloat.formats")
    decode = pytest.importorskip("gfloat").decode_float
    bits = {"e2m1": 4, "e2m3": 6, "e3m2": 6}.get(name, 8)
    info = getattr(formats, f"format_info_ocp_{name}")
    theirs = {decode(info, code).fval for code in range(2**bits)}
    assert set(parse_element(name).codebook("absmax", 32).tolist()) == {v for v in theirs if np.isfinite(v)}


def _published_quantiles(quantile) -> np.ndarray:
    offset = (1 / 32 + 1 / 30) / 2
    values = quantile(np.concatenate([np.linspace(offset, 0.5, 8), np.linspace(0.5, 1 - offset, 9)[1:]]))
    return values / np.abs(values).max()


def test_normal_floats_follow_their_published_derivation() -> None:
    np.testing.assert_allclose(codebook("nf4", "absmax"), _published_quantiles(Normal().ppf), atol=5e-7)
    np.testing.assert_allclose(codebook("sf4", "absmax"), _published_quantiles(StudentT(5.0).ppf), atol=5e-7)


@pytest.mark.peers
def test_nf4_equals_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.get_4bit_type("nf4", device="cpu")
    assert parse_element("nf4").codebook("absmax", 64).tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("cbrt-norml@3", "did you mean cbrt-normal"),
        ("nf5", "did you mean nf4"),
        ("e4m4", "unknown element"),
        ("cbrt-t@3", "needs its degrees of freedom"),
        ("cbrt-t(df=2)@3", "no RMS"),
        ("cbrt-t(df=5,alpha=0.1)@3", "too small"),
        ("cbrt-normal(df=5)@3", "no argument 'df'"),
        ("cbrt-normal(alpha=x)@3", "not a number"),
        ("cbrt-normal(alpha=1,alpha=1)@3", "not a new key=value"),
        ("cbrt-normal(variant=other)@3", "no variant 'other'"),
        ("cbrt-normal", "needs a size"),
        ("lloyd", "needs a size"),
        ("lloyd-t(df=fit)@3", "not a number"),
        ("int", "needs a size"),
        ("int(variant=asymmetric,levels=15)", "symmetric"),
        ("int@9", "512 levels"),
        ("int@0.2", "1 levels"),
        ("int@99999999", "levels"),
        ("int(levels=4)@2", "size twice"),
        ("int(levels=-4)", "not a whole number"),
        ("nf4@4", "no other size"),
        ("e2m1@4", "fixed size"),
        ("", "is no element"),
        ("int@4 b32", "is no element"),
        ("int((levels=4))", "is no element"),
    ],
)
def test_bad_tokens_say_what_is_wrong(token: str, says: str) -> None:
    with pytest.raises(FormatError, match=says) as caught:
        parse_element(token)
    assert caught.value.remedy


@given(st.text(max_size=24))
def test_any_text_parses_or_raises_a_format_error(text: str) -> None:
    try:
        element = parse_element(text)
    except FormatError:
        return
    assert parse_element(str(element)) == element


@pytest.mark.parametrize("name", sorted(set(ELEMENTS) - set(FIXED_SIZE)))
def test_bits_that_are_no_whole_number_give_the_nearest_number_of_levels(name: str) -> None:
    arguments = "(df=5)" if name.endswith("-t") else ""
    element = parse_element(f"{name}{arguments}@3.5")
    assert element.levels == 11
    assert "levels=11" in str(element)


def test_midpoints_split_a_codebook() -> None:
    assert midpoints(np.array([0.0, 1.0, 4.0])).tolist() == [0.5, 2.5]
