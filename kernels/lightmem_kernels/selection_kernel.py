"""Device code of the selection of words: one program per chunk, an order statistic without sorting, no float reordered.

Probabilities are not negative, so their bits, read as integers, are in the order of their values: the value of a rank
is found bit by bit, each bit by one count. Must be compiled without fused multiplication and addition: the threshold
has to come out as two roundings, as it does elsewhere.
"""

import triton
import triton.language as tl

FAR: tl.constexpr = tl.constexpr(0x7FFFFFFF)  # no number has these bits
ABOVE: tl.constexpr = tl.constexpr(1)
DOUBLE: tl.constexpr = tl.constexpr(2)


@triton.jit
def select_words(
    probabilities, places, starts, lengths, weights, bounds, ranks, fractions, forms, keep, WORDS: tl.constexpr
):  # fmt: skip
    """Which words of chunk `program_id(0)` stay; the arguments are those of `lightmem_kernels.keep_words`.

    forms: int32, bit 0 of `from_above` and bit 1 of `is_double`.   WORDS: a power of two, no chunk has more.
    """
    chunk = tl.program_id(0)
    first, end = tl.load(bounds + chunk), tl.load(bounds + chunk + 1)
    words = first + tl.arange(0, WORDS)
    inside = words < end
    start = tl.load(starts + words, inside, 0)
    length = tl.load(lengths + words, inside, 0)
    weight = tl.load(weights + words, inside, 0)
    total = tl.zeros([WORDS], tl.float32)
    for i in range(tl.max(length, 0)):
        has_token = i < length
        place = tl.load(places + start + i, has_token, -1)
        value = tl.load(probabilities + place, has_token & (place >= 0), 1.0)
        total = tl.where(has_token, total + value, total)
    mean = tl.div_rn(total, tl.maximum(length, 1).to(tl.float32))

    counts = inside & (weight > 0)
    is_broken = tl.sum((counts & (mean != mean)).to(tl.int32), 0) > 0
    bits = tl.where(counts, mean.to(tl.int32, bitcast=True), FAR)
    rank = tl.load(ranks + chunk)
    low = tl.min(tl.full([WORDS], 0, tl.int32), 0)
    for i in range(31):
        raised = low | (1 << (30 - i))
        below = tl.sum(tl.where(bits < raised, weight, 0), 0)
        low = tl.where(below <= rank, raised, low)
    upto = tl.sum(tl.where(bits <= low, weight, 0), 0)
    beyond = tl.min(tl.where(bits > low, bits, FAR), 0)
    high = tl.where((upto > rank + 1) | (beyond == FAR), low, beyond)

    form = tl.load(forms + chunk)
    fraction = tl.load(fractions + chunk)
    single = _between(_value(low), _value(high), fraction.to(tl.float32), form)
    double = _between(_value(low).to(tl.float64), _value(high).to(tl.float64), fraction, form)
    threshold = tl.where((form & DOUBLE) != 0, double, single.to(tl.float64))
    ours = mean.to(tl.float64)
    stays = (ours > threshold) | ((ours == 1.0) & (ours == threshold))
    tl.store(keep + words, (stays & (is_broken == 0)).to(tl.int8), inside)


@triton.jit
def _value(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _between(low, high, fraction, form):
    """`fraction` of the way up from `low`, or down from `high`."""
    step = (high - low) * fraction
    return tl.where((form & ABOVE) != 0, high - step, low + step)
