"""The experiments on LM-SPT: every variant is a recipe, networks are of the sizes needed, verdicts follow intervals."""

import importlib.util
from pathlib import Path

import pytest

from vocable.evaluation.runner import find_benchmark
from vocable.systems.lm_spt.networks import make_decoder, make_encoder
from vocable.types import Utterance

HOME = Path(__file__).parents[2] / "experiments" / "lm-spt"
SPEC = importlib.util.spec_from_file_location("lm_spt_experiment", HOME / "run.py")
assert SPEC is not None and SPEC.loader is not None
run = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(run)


@pytest.fixture(scope="module")
def plan():
    return run.read_plan()


def test_every_variant_differs_from_the_base_in_what_it_says(plan):
    base = run.recipe(plan, "resynthesis", 0)
    for name, settings in plan["variants"].items():
        config = run.recipe(plan, name, 3, ["training.max_steps=7"])
        assert config.training.seed == 3 and config.training.max_steps == 7
        assert (config.codec, config.distillation) != (base.codec, base.distillation) or not settings
    cosine = run.recipe(plan, "speechtokenizer-25hz", 0)
    assert cosine.codec == run.recipe(plan, "25hz", 0).codec and cosine.distillation.mode == "features"


def test_networks_are_as_large_as_the_questions_need(plan):
    def sizes(name):
        codec = run.recipe(plan, name, 0).codec
        encoder = make_encoder(codec.encoder, codec.sample_rate, codec.hop_length, codec.dim)
        auxiliary = make_decoder(codec.auxiliary, codec.dim, codec.frame_rate)
        return [sum(one.numel() for one in net.parameters()) for net in (encoder, auxiliary)]

    encoder, auxiliary = sizes("resynthesis")
    assert sizes("one-encoder")[0] == pytest.approx(2 * encoder, rel=0.01)
    assert sizes("auxiliary-4x")[1] == pytest.approx(4 * auxiliary, rel=0.02)
    assert sizes("auxiliary-16x")[1] == pytest.approx(16 * auxiliary, rel=0.02)


def test_claims_name_variants_and_judges_that_there_are(plan):
    assert {claim["question"] for claim in plan["claims"]} == {f"P{number}" for number in range(1, 8)}
    for claim in plan["claims"]:
        for side, score in ((claim["lower"], claim["score"]), (claim["higher"], run.other_score(claim))):
            assert side in plan["variants"] and score.split("/")[0] in run.needed_judges(plan, side)
    for judge in plan["judges"].values():
        benchmark, on, settings = run.split_judge(judge)
        assert on in ("test", "speakers")
        fields = find_benchmark(benchmark).Config.__dataclass_fields__
        assert set(settings) <= set(fields) and {"manifest", "tokenizer"} <= set(fields)


def test_recordings_that_the_speaker_probe_is_asked_about_are_heard_by_nobody():
    utterances = [Utterance(id=f"u{number}", audio=Path("x"), speaker=f"s{number % 5}") for number in range(200)]
    parts = run.divide(utterances, {"held_out_share": 0.15, "probe_recordings": 60})
    ids = {name: {one.id for one in part} for name, part in parts.items()}
    assert len(ids["train"]) == 170 and len(ids["probe"]) == 60 and len(ids["speakers"]) == 30
    assert ids["probe"] <= ids["train"] and not ids["speakers"] & ids["train"]
    assert run.divide(utterances[::-1], {"held_out_share": 0.15, "probe_recordings": 60}) == parts


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(-0.3, -0.1), (-0.2, -0.01)], "holds"),
        ([(0.1, 0.3), (0.2, 0.4)], "fails"),
        ([(-0.3, -0.1), (-0.2, 0.01)], "cannot tell"),
        ([(-0.3, -0.1), (0.2, 0.3)], "cannot tell"),
        ([(-0.3, -0.1), None], "not run yet"),
        ([None, None], "not run yet"),
    ],
)
def test_a_verdict_needs_every_seed(intervals, verdict):
    gaps = [None if one is None else run.Gap(0.1, 0.2, sum(one) / 2, *one) for one in intervals]
    assert run.verdict(gaps) == verdict
