"""Verdicts from made-up histories, in which we know what should come out; and the statistics beneath them."""

import math

import pytest

from lora_course.experiments import claims
from lora_course.experiments.claims import CLAIMS, compare, rank_verdict, rate_verdict, ratio_verdict, target_verdict
from lora_course.experiments.statistics import frontier, median_ratio, paired_difference, quartiles, t_quantile
from tests.experiments.histories import history


def runs(found, seeds=(0, 1, 2)):
    """(configuration, accuracy, validation loss) -> histories; the seeds move all alike, by a point each."""
    return [
        history(c.name, s, c.recipe.rank, c.recipe.learning_rate, a + 0.01 * s + 0.0001 * (s == 1) * i, loss)
        for i, (c, a, loss) in enumerate(found)
        for s in seeds
    ]


def test_learning_rates():
    full = [(c, 0.7, abs(i - 2)) for i, c in enumerate(claims.FULL_GRID)]
    lora = [(c, 0.7, abs(i - 2)) for i, c in enumerate(claims.LORA_GRID)]
    said = rate_verdict(runs([*full, *lora]))
    assert said.startswith("It holds here") and "full fine-tuning is 0.0002 and LoRA's 0.002, 10 times" in said
    assert "end of its grid" not in said
    lora = [(c, 0.7, -i) for i, c in enumerate(claims.LORA_GRID)]
    said = rate_verdict(runs([*full, *lora]))
    assert said.startswith("It does not hold here") and "100 times" in said
    assert "But lora lr=0.02 lies at the end of its grid" in said


def test_targets():
    query_value, attention, mlp = claims.SAME_SIZE

    def verdict(q, a, m, e):
        return target_verdict(runs([(query_value, q, 0), (attention, a, 0), (mlp, m, 0), (claims.EVERYWHERE, e, 0)]))

    begins = "It holds here. With as many trained numbers, and one learning rate for all: lora r=8 mlp − lora r=10"
    assert verdict(0.6, 0.6, 0.7, 0.7).startswith(begins)
    assert "+10.0 points" in verdict(0.6, 0.6, 0.7, 0.7)
    assert verdict(0.6, 0.7, 0.6, 0.7).startswith("The opposite holds here")
    assert verdict(0.7, 0.7, 0.7, 0.7).startswith("It is not settled here")


def test_rank_and_ratio():
    same, rising = ([(c, 0.6 + step * i, abs(i - 2)) for i, c in enumerate(claims.RANKS)] for step in (0, 0.02))
    assert rank_verdict(runs(same)).startswith("It is not settled here. At one learning rate for all, the best rank by")
    said = rank_verdict(runs(rising))
    assert said.startswith("It does not hold") and "is 16: lora r=16 − lora r=1: +4.0" in said
    assert said.endswith("lora r=64 − lora r=1: +6.0 points, 95 % interval ± 0.0.")
    assert rank_verdict(runs([(c, 0.6, i) for i, c in enumerate(claims.RANKS)])).startswith("It holds here, at one")
    lora = [(c, 0.7, abs(i - 2)) for i, c in enumerate(claims.LORA_GRID)]
    plus = [(c, 0.7 + 0.05 * (r == 16), abs(i - 1)) for r, g in claims.PLUS_GRID.items() for i, c in enumerate(g)]
    said = ratio_verdict(runs([*lora, *plus]))
    assert said.startswith("It holds here") and "0.002 for both at ratio 1, 0.0006 and 0.0024 at ratio 4" in said
    assert "lora ratio=16 lr=0.0002 − lora lr=0.002: +5.0 points" in said
    plus = [(c, 0.7, 0) for g in claims.PLUS_GRID.values() for c in g]
    assert ratio_verdict(runs([*lora, *plus])).startswith("It is not settled here")


def test_one_seed_settles_nothing():
    a, b = claims.RANKS[:2]
    said, sign = compare(runs([(a, 0.9, 0), (b, 0.1, 0)], seeds=(0,)), a, b)
    assert sign == 0 and "+80.0 points, 95 % interval ± nan" in said
    with pytest.raises(ValueError, match="no run of 'lora r=4'"):
        compare(runs([(a, 0.9, 0)]), a, b)


def test_each_claim_names_what_it_needs_and_the_report_has_all():
    everything = claims.all_configurations()
    assert len({c.name for c in everything}) == len(everything) == 23
    each_rank = {"query-value": 1536, "attention": 3072, "mlp": 3840}
    assert {c.recipe.rank * each_rank[c.recipe.targets] for c in claims.SAME_SIZE} == {30720}
    histories = runs([(c, 0.7, i) for i, c in enumerate(everything)])
    figures = {key: f"{key}.png" for key in CLAIMS}
    report = claims.report(histories, figures)
    for claim in CLAIMS.values():
        assert len(claim.histories(histories)) == 3 * len(claim.configurations)
        assert f"## {claim.title}\n" in report and claim.verdict(histories) in report and claim.says in report
    assert all(f"]({key}.png)" in report for key in CLAIMS) and "| lora r=64 | 1,000 |" in report
    assert "40 steps; judged on 800 other sentences; seeds 0, 1, 2" in report and "69 runs" in report


def test_statistics():
    assert median_ratio([9, 2, 3, 8], [1, 1, 2, 2], warm_up=1) == 2.0  # of 2, 1.5 and 4
    with pytest.raises(ValueError):
        median_ratio([1, 2], [1])
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5) and quartiles([7.0]) == (7.0, 7.0, 7.0)
    mean, error = paired_difference({0: 3.0, 1: 5.0, 7: 0.0}, {1: 4.0, 0: 0.0})
    assert (mean, error) == (2.0, pytest.approx(1.0)) and math.isnan(paired_difference({1: 1.0}, {1: 2.0})[1])
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({1: 1.0}, {2: 1.0})
    assert t_quantile(1) == math.inf and t_quantile(2) == 12.706 and t_quantile(3) == 4.303 and t_quantile(40) == 2.262
    points = [("a", 2, 0.7), ("b", 2, 0.8), ("c", 1, 0.6), ("d", 3, 0.8), ("e", 9, math.nan), ("f", 1, 0.6)]
    assert frontier(points) == ["c", "f", "b"]
