"""Recipes: every file loads, and a mistake is one line that says what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import layerdial
from layerdial.config.network import NETWORKS, SIZES, ConformerConfig
from layerdial.config.objective import OBJECTIVES, ExitsConfig
from layerdial.config.policies import POLICIES
from layerdial.config.recipe import Recipe, load_recipe
from layerdial.config.strict import parse
from layerdial.errors import UserError
from tiny_recipes import MINIMAL

REPOSITORY = Path(__file__).parents[2]
RECIPES = sorted(
    file for folder in (REPOSITORY / "recipes", Path(layerdial.__file__).parent) for file in folder.rglob("*.yaml")
)


def load(tmp_path: Path, *overrides: str, **parts: Any) -> Recipe:
    """MINIMAL with `parts` in place of its own; a part None is left out."""
    recipe = {key: value for key, value in {**MINIMAL, **parts}.items() if value is not None}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe(tmp_path / "recipe.yaml", overrides)


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_recipe_loads(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.objective.distil is None or recipe.reference is not None
    assert recipe.model is not None or recipe.reference is not None or recipe.init != "scratch"


def test_a_recipe_survives_being_stored_in_a_runs_meta_json(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_fill_in_numbers_and_give_way_to_those_set_beside_them(size: str) -> None:
    config = ConformerConfig.model_validate({"size": size, "n_blocks": 5})
    assert config.n_blocks == 5 and config.width == SIZES[size]["width"]


def test_the_paper_size_is_the_papers() -> None:
    paper = ConformerConfig.model_validate({"size": "paper"})
    numbers = (paper.n_blocks, paper.width, paper.heads, paper.ffn_width, paper.kernel, paper.dropout)
    assert numbers == (12, 256, 8, 2048, 31, 0.1)


def test_set_changes_a_key_and_its_value_is_yaml(tmp_path: Path) -> None:
    overrides = ("optim.lr=5e-4", "train.eval_depths=[1, 4]", "data.speeds=[]", "model.block_norm=true")
    recipe = load(tmp_path, *overrides, "reference=a/b")
    assert recipe.optim.lr == 5e-4 and recipe.train.eval_depths == (1, 4) and recipe.data.speeds == ()
    assert recipe.model is not None and (recipe.model.block_norm, recipe.model.size) == (True, "xs")
    assert recipe.reference == Path("a/b")


def test_set_makes_sections_that_the_file_lacks(tmp_path: Path) -> None:
    assert load(tmp_path, "objective.exits.power=2").objective.exits == ExitsConfig(at="all", power=2.0)
    assert load(tmp_path, "model.size=s", model=None).model == ConformerConfig.model_validate({"size": "s"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.learning_rate=1"], r"unknown config key optim\.learning_rate; .*known keys: lr, head_lr, schedule"),
        (["optim.warmup_step=1"], r"unknown config key optim\.warmup_step; did you mean warmup_steps\?"),
        (["modle.size=s"], r"unknown config key modle; did you mean model\? known keys: recipe, out"),
        (["model.widht=8"], r"unknown config key model\.widht; did you mean width\?"),
        (["model.size=xl"], r"model\.size: .*'xs', 's', 'm' or 'paper', found 'xl'"),
        (["model=xs"], r"model: .*found 'xs'"),
        (["model.width=100"], "width 100 is not a multiple of twice the heads"),
        (["model.skip=norm"], "skip 'norm' keeps a dropped block's final norm, which needs block_norm: true"),
        (["model.kernel=16"], "kernel 16 is even"),
        (["train.steps=0"], r"train\.steps: .*greater than or equal to 1, found 0"),
        (["train.steps=many"], r"train\.steps: .*found 'many'"),
        (
            ["policy.name=half"],
            r"policy\.name is 'half'; choose none, bernoulli, .*sandwich.*, or name its file in plugins",
        ),
        (["policy.name=sandwhich"], r"policy\.name is 'sandwhich'; did you mean sandwich\? choose none"),
        (["policy.keep=0.5"], r"unknown config key policy\.keep; known keys: name"),
        (["policy={}"], r"policy\.name: Field required"),
        (["policy=none"], r"policy: .*found 'none'"),
        (["objective.name=ctcc"], r"objective\.name is 'ctcc'; did you mean ctc\? choose ctc, or name its file"),
        (["plugins=mine.py"], r"plugins is 'mine\.py'; give a list of Python files"),
        (["policy.name=bernoulli"], "policy bernoulli needs keep_prob"),
        (["policy.keep_prob=0.5"], "policy none takes no keep_prob"),
        (["policy={name: bernoulli, keep_prob: 0}"], r"policy\.keep_prob: .*greater than 0, found 0"),
        (["policy.subsets=even"], "policy none takes no subsets; uniform_count and sandwich do"),
        (["policy={name: sandwich, subsets: ladder}"], "'ladder' but a run from scratch starts from no model"),
        (["policy={name: sandwich, subsets: chosen}", "objective.exits.at=all"], "exits is for subsets that are known"),
        (["model.selector=input"], r"never trained; set policy\.subsets: chosen"),
        (["objective.exits.at=some"], r"objective\.exits\.at: .*found 'some'"),
        (["objective.exits.pwoer=2"], r"unknown config key objective\.exits\.pwoer; did you mean power\?"),
        (["objective.in_place.weight=1"], "in_place needs a full-depth pass in every step: policy sandwich, not none"),
        (["model.selector=output"], r"model\.selector: .*'input' or 'scores', found 'output'"),
        (["model={size: xs, selector: input, block_norm: true, skip: norm}"], "a selector drops blocks whole"),
        (["objective.distil.weight=1"], "there is no reference to learn from"),
        (["model.exit_heads=true"], "would never be trained; set objective.exits.at: all"),
        (["tokenizer={kind: char, size: 40}"], r"Leave size out, as in tokenizer=\{kind: char\}"),
        (["init=reference"], "there is no reference"),
        (["tokenizer={kind: bpe}"], "kind bpe needs a size"),
        (["tokenizer={}"], "give either kind"),
        (["data.speeds=[0.0]"], r"data\.speeds\.0: .*greater than or equal to 0\.1, found 0\.0"),
        (["data.speeds=[fast]"], r"data\.speeds\.0: .*found 'fast'"),
        (["recipe=3"], "has version 3; this layerdial reads 'recipe: 2'"),
        (["optim.lr"], r"--set 'optim\.lr' is not of the form a\.b=value"),
        (["=3"], "--set '=3' is not of the form"),
        (["model={size: xs"], "--set .* is not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_be_right(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as problem:
        load(tmp_path, *overrides)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("recipe", "has version 'none'"),
        ("out", "out: Field required"),
        ("model", "model is missing; for example"),
        ("tokenizer", "tokenizer is missing; for example"),
        ("data", "data: Field required"),
        ("train", "train: Field required"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, part: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, **{part: None})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no keys"),
        (b"- a\n- b\n", "holds no keys"),
        (b"recipe: 2\n  out: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not a recipe"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_is_no_recipe_is_said(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as problem:
        load_recipe(file)
    assert "\n" not in str(problem.value)
    with pytest.raises(UserError, match="is not a recipe"):
        load_recipe(tmp_path)


def test_configs_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).init = "reference"  # type: ignore[misc]


def test_parse_names_keys_of_a_config_on_its_own() -> None:
    with pytest.raises(UserError, match=r"config\.json: unknown config key depth; .*known keys: family"):
        parse(ConformerConfig, {"size": "xs", "depth": 3}, "config.json")


# ------------------------------------------------------------------------------------------------- the set of keys

KEYS = [
    "data.batch_seconds",
    "data.buckets",
    "data.cache_mb",
    "data.dev",
    "data.gain_db",
    "data.max_seconds",
    "data.pauses.alone",
    "data.pauses.from_epoch",
    "data.pauses.joined",
    "data.pauses.noise_db",
    "data.pauses.seconds",
    "data.pauses.share",
    "data.posteriors",
    "data.read_timeout",
    "data.speeds",
    "data.train",
    "data.workers",
    "init",
    "model.block_norm",
    "model.config",
    "model.dropout",
    "model.exit_heads",
    "model.family",
    "model.ffn_width",
    "model.freeze_decoder",
    "model.freeze_front_end",
    "model.gradient_checkpointing",
    "model.head",
    "model.heads",
    "model.kernel",
    "model.n_blocks",
    "model.normalise",
    "model.selector",
    "model.self_condition",
    "model.size",
    "model.skip",
    "model.streaming.chunk_ms",
    "model.streaming.left_context_ms",
    "model.width",
    "objective.distil.teacher",
    "objective.distil.top_k",
    "objective.distil.weight",
    "objective.exits.at",
    "objective.exits.distil_weight",
    "objective.exits.power",
    "objective.exits.weight",
    "objective.in_place.ctc_weight",
    "objective.in_place.divergence",
    "objective.in_place.weight",
    "objective.name",
    "optim.clip",
    "optim.head_lr",
    "optim.lr",
    "optim.schedule",
    "optim.warmup_steps",
    "optim.weight_decay",
    "out",
    "plugins",
    "policy.keep_prob",
    "policy.min_depth",
    "policy.name",
    "policy.subsets",
    "recipe",
    "reference",
    "spec_augment.freq_masks",
    "spec_augment.freq_width",
    "spec_augment.time_masks",
    "spec_augment.time_share",
    "spec_augment.time_width",
    "tokenizer.kind",
    "tokenizer.path",
    "tokenizer.size",
    "train.accumulate",
    "train.average_best",
    "train.depth_per_chunk",
    "train.eval_depths",
    "train.eval_every",
    "train.log_every",
    "train.precision",
    "train.seed",
    "train.select_by",
    "train.steps",
    "train.threads",
]


def keys_of(model: type[BaseModel]) -> set[str]:
    """The dotted keys of nested models; those of all kinds where there are several."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        found |= {f"{name}.{key}" for part in inner for key in keys_of(part)} if inner else {name}
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models of a field; of a registered kind, the built-in ones, which alone have their names in recipes."""
    for registry in (POLICIES, OBJECTIVES, NETWORKS):
        if annotation is registry.base or registry.base in get_args(annotation):
            return [entry.settings for name, entry in registry.entries.items() if registry.is_built_in(name)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def test_recipes_have_these_keys_and_no_others() -> None:
    advice = (
        "a new key needs a line in CHANGELOG.md and in docs/; one that goes, also a line in old_keys.py and docs/log.md"
    )
    assert sorted(keys_of(Recipe)) == KEYS, advice
