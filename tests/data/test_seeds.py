"""Seeds are told apart by every part, and stay what they are."""

from vig_minimal.data.seeds import mixed_seed


def test_every_part_changes_the_seed():
    seeds = [mixed_seed(*parts) for parts in [(0,), (0, 0), (0, 1), (1, 0), ("order", 0), ("crop", 0), (11,), (1, 1)]]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed("order", 3, 7) == 6241691514264616680  # on every machine and in every version
