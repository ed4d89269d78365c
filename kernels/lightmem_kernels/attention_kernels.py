"""Device code of segment attention: softmax weights are made tile by tile and folded into segments at once.

One program takes a tile of queries and a tile of keys of one sequence, sums the weights of all heads in registers, and
only then folds them: the fold costs the same whether there is one head or forty. Tile pairs without a pair of segments
to report end at once. Results of different programs meet in atomic additions, so their last bits depend on the order.
"""

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
KEY_BLOCK: tl.constexpr = tl.constexpr(16)  # key segments folded by one product
FAR: tl.constexpr = tl.constexpr(1 << 30)  # greater than every segment's number
MATRIX: tl.constexpr = tl.constexpr(0)
ADJACENT: tl.constexpr = tl.constexpr(1)
RECEIVED: tl.constexpr = tl.constexpr(2)


@triton.jit
def _tile_of(places, inside, UPCAST: tl.constexpr):
    """Rows of one head; zeros where there are none."""
    found = tl.load(places, inside, 0.0)
    if UPCAST:
        found = found.to(tl.float32)
    return found


@triton.jit
def _weights(q_tile, k_tile, lse, scale):
    """exp(q·k · scale - lse) of one head for a tile, [queries, keys]; places beyond the sequence are not cleared."""
    scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
    return tl.exp2(scores * (scale * LOG2_E) - (lse * LOG2_E)[:, None])


@triton.jit
def fold_tile(
    q, k, lse, seg_q, seg_k, tiles, out, scale, dim, key_tiles,
    stride_q, stride_qh, stride_k, stride_kh, stride_lse, stride_out, stride_row,
    HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    MODE: tl.constexpr, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile of queries against one tile of keys.

    tiles: int32 [num_tiles, 6], per tile of queries: its sequence, first query, end of the sequence's queries, first
    key, end of the keys, and how many keys come before the tile's first query. Programs of one tile of queries follow
    each other, `key_tiles` of them, so that its queries are read from the cache by all but the first.
    SPLIT: fold in two bf16 products.
    """
    program = tl.program_id(0)
    tile = tiles + (program // key_tiles) * 6
    first_query, query_end = tl.load(tile + 1), tl.load(tile + 2)
    key_start, key_end, ahead = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    first_key = key_start + (program % key_tiles) * KEYS
    # `ahead` is counted from the tile's own first query, so that places compare without the start of the sequence.
    last_seen = key_start + ahead + QUERIES - 1
    if first_key < key_end and (not CAUSAL or first_key <= last_seen):
        queries = first_query + tl.arange(0, QUERIES)
        keys = first_key + tl.arange(0, KEYS)
        of_query = tl.load(seg_q + queries, queries < query_end, -1)
        of_key = tl.load(seg_k + keys, keys < key_end, -1)
        lowest_key = tl.min(tl.where(of_key >= 0, of_key, FAR), 0)
        highest_query = tl.max(of_query, 0)
        if MODE == MATRIX:
            has_pair = lowest_key < highest_query
        elif MODE == ADJACENT:
            has_pair = lowest_key <= highest_query
        else:
            has_pair = (highest_query >= 0) & (lowest_key < FAR)
        if has_pair:
            mass = tl.zeros([QUERIES, KEYS], tl.float32)
            across = tl.arange(0, DIM)
            in_q = (queries < query_end)[:, None] & (across < dim)[None, :]
            in_k = (keys < key_end)[:, None] & (across < dim)[None, :]
            of_q = q + queries.to(tl.int64)[:, None] * stride_q + across[None, :]
            of_k = k + keys.to(tl.int64)[:, None] * stride_k + across[None, :]
            if GROUP == 1:
                for head in range(HEADS):
                    k_tile = _tile_of(of_k + head * stride_kh, in_k, UPCAST)
                    q_tile = _tile_of(of_q + head * stride_qh, in_q, UPCAST)
                    own = tl.load(lse + head * stride_lse + queries, queries < query_end, 0.0)
                    mass += _weights(q_tile, k_tile, own, scale)
            else:
                for kv_head in range(HEADS // GROUP):
                    k_tile = _tile_of(of_k + kv_head * stride_kh, in_k, UPCAST)
                    for head in range(kv_head * GROUP, kv_head * GROUP + GROUP):
                        q_tile = _tile_of(of_q + head * stride_qh, in_q, UPCAST)
                        own = tl.load(lse + head * stride_lse + queries, queries < query_end, 0.0)
                        mass += _weights(q_tile, k_tile, own, scale)
            # Read again: held over the loop they would take the registers of its products.
            first_query, query_end = tl.load(tile + 1), tl.load(tile + 2)
            key_start, key_end, ahead = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
            queries = first_query + tl.arange(0, QUERIES)
            keys = key_start + (program % key_tiles) * KEYS + tl.arange(0, KEYS)
            of_query = tl.load(seg_q + queries, queries < query_end, -1)
            of_key = tl.load(seg_k + keys, keys < key_end, -1)
            counted = (of_query >= 0)[:, None] & (of_key >= 0)[None, :]
            if CAUSAL:
                seen = key_start + ahead + tl.arange(0, QUERIES)
                counted = counted & (keys[None, :] <= seen[:, None])
            # Not a product: a hidden score may be infinite.
            mass = tl.where(counted, mass, 0.0)
            sequence = tl.load(tile).to(tl.int64)
            if MODE == RECEIVED:
                tl.atomic_add(out + keys, tl.sum(mass, 0), of_key >= 0)
            elif MODE == ADJACENT:
                _fold_neighbours(mass, of_query, of_key, out + sequence * stride_out, stride_row)
            else:
                _fold_rectangles(mass, of_query, of_key, out + sequence * stride_out, stride_row, SPLIT)


@triton.jit
def _fold_neighbours(mass, of_query, of_key, out, stride_row):
    """Add what each segment of queries gives to the segment before it, to all earlier ones, and to itself."""
    lowest_query, highest_query = tl.min(tl.where(of_query >= 0, of_query, FAR), 0), tl.max(of_query, 0)
    apart = of_query[:, None] - of_key[None, :]
    earlier = tl.sum(tl.where(apart > 0, mass, 0.0), 1)
    if tl.max(of_key, 0) < lowest_query - 1:  # all of these keys are further back
        for segment in range(lowest_query, highest_query + 1):
            tl.atomic_add(out + segment * stride_row + 1, tl.sum(tl.where(of_query == segment, earlier, 0.0), 0))
    else:
        before = tl.sum(tl.where(apart == 1, mass, 0.0), 1)
        itself = tl.sum(tl.where(apart == 0, mass, 0.0), 1)
        for segment in range(lowest_query, highest_query + 1):
            row, own = out + segment * stride_row, of_query == segment
            tl.atomic_add(row, tl.sum(tl.where(own, before, 0.0), 0))
            tl.atomic_add(row + 1, tl.sum(tl.where(own, earlier, 0.0), 0))
            tl.atomic_add(row + 2, tl.sum(tl.where(own, itself, 0.0), 0))


@triton.jit
def _fold_rectangles(mass, of_query, of_key, out, stride_row, SPLIT: tl.constexpr):
    """Add the sums over (segment of queries, earlier segment of keys) to `out`."""
    lowest_query, highest_query = tl.min(tl.where(of_query >= 0, of_query, FAR), 0), tl.max(of_query, 0)
    lowest_key, highest_key = tl.min(tl.where(of_key >= 0, of_key, FAR), 0), tl.max(of_key, 0)
    for base in range(lowest_key, tl.minimum(highest_key + 1, highest_query), KEY_BLOCK):
        segments = base + tl.arange(0, KEY_BLOCK)
        chosen = of_key[:, None] == segments[None, :]
        if SPLIT:
            # The weights in two halves of 8 bits each: exact to 2^-16, and tensor cores take both.
            coarse = mass.to(tl.bfloat16)
            fine = (mass - coarse.to(tl.float32)).to(tl.bfloat16)
            by_key = tl.dot(coarse, chosen.to(tl.bfloat16)) + tl.dot(fine, chosen.to(tl.bfloat16))
        else:
            by_key = tl.dot(mass, chosen.to(tl.float32), input_precision="ieee")
        for segment in range(tl.maximum(lowest_query, base + 1), highest_query + 1):
            row = tl.sum(tl.where((of_query == segment)[:, None], by_key, 0.0), 0)
            earlier = segments < tl.minimum(segment, highest_key + 1)
            tl.atomic_add(out + segment * stride_row + segments, row, earlier)


@triton.jit
def denominators(
    q, k, lse, tiles, scale, dim, stride_q, stride_qh, stride_k, stride_kh, stride_lse,
    GROUP: tl.constexpr, DIM: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    CAUSAL: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Natural log of the softmax denominators of one tile of queries and one head; `tiles` as for `fold_tile`."""
    tile = tiles + tl.program_id(0) * 6
    head = tl.program_id(1)
    first_query, query_end = tl.load(tile + 1), tl.load(tile + 2)
    key_start, key_end, ahead = tl.load(tile + 3), tl.load(tile + 4), tl.load(tile + 5)
    queries = first_query + tl.arange(0, QUERIES)
    seen = key_start + ahead + tl.arange(0, QUERIES)
    across = tl.arange(0, DIM)
    in_q = (queries < query_end)[:, None] & (across < dim)[None, :]
    of_q = q + queries.to(tl.int64)[:, None] * stride_q + head * stride_qh + across[None, :]
    q_tile = _tile_of(of_q, in_q, UPCAST)
    highest = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    of_k = k + (head // GROUP) * stride_kh + across[None, :]
    end = tl.minimum(key_end, key_start + ahead + QUERIES) if CAUSAL else key_end
    # Tiles of keys that every query sees wholly need no look at places; the last ones do.
    whole = tl.minimum(ahead + 1, key_end - key_start) if CAUSAL else key_end - key_start
    border = key_start + whole // KEYS * KEYS
    for first_key in range(key_start, border, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        k_tile = _tile_of(of_k + keys.to(tl.int64)[:, None] * stride_k, (across < dim)[None, :], UPCAST)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        raised, total = _raised(highest, total, scores, scale)
        highest = raised
    for first_key in range(border, end, KEYS):
        keys = first_key + tl.arange(0, KEYS)
        in_k = (keys < key_end)[:, None] & (across < dim)[None, :]
        k_tile = _tile_of(of_k + keys.to(tl.int64)[:, None] * stride_k, in_k, UPCAST)
        scores = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee")
        visible = (keys < key_end)[None, :]
        if CAUSAL:
            visible = visible & (keys[None, :] <= seen[:, None])
        raised, total = _raised(highest, total, tl.where(visible, scores, -float("inf")), scale)
        highest = raised
    tl.store(lse + head * stride_lse + queries, (highest + tl.log2(total)) / LOG2_E, queries < query_end)


@triton.jit
def _raised(highest, total, scores, scale):
    """The greatest score of each row so far, in powers of two, and the sum of all relative to it."""
    factor = scale * LOG2_E
    raised = tl.maximum(highest, tl.max(scores, 1) * factor)
    # A row that has seen nothing yet keeps -inf, and -inf - -inf is no number.
    anchor = tl.where(raised == -float("inf"), 0.0, raised)
    total = total * tl.exp2(highest - anchor) + tl.sum(tl.exp2(scores * factor - anchor[:, None]), 1)
    return raised, total
