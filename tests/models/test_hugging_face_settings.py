"""What a recipe may ask of a Hugging Face model, what its checkpoint decides, and what is refused in one line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor, WavLMModel

from layerdial.config.network import HuggingFaceConfig
from layerdial.config.recipe import OptimConfig, Recipe
from layerdial.config.strict import parse
from layerdial.errors import UserError
from layerdial.models.huggingface.checkpoint import load_hugging_face, load_processor, new_hugging_face
from layerdial.models.huggingface.processor import HuggingFaceFeatures, HuggingFaceTokenizer, character_processor
from layerdial.text.pieces import piece_table
from layerdial.training.optim import make_optimizer
from layerdial.training.reference import Reference
from layerdial.training.setup import make_student
from tiny_hf import letters, save_tiny, tiny_model, tiny_processor

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
EXTRACTOR = Wav2Vec2FeatureExtractor()
TINY |= {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def recipe(**parts: Any) -> Recipe:
    told = {"recipe": 2, "out": "x", "data": {"train": "t", "dev": "d"}, "policy": {"name": "none"}}
    return parse(Recipe, {**told, "train": {"steps": 1}, **parts}, "recipe")


def processor(text: str = "low middle high") -> Any:
    return character_processor([text], Wav2Vec2FeatureExtractor())


def test_keys_of_a_hugging_face_model_say_the_family_by_themselves() -> None:
    asked = recipe(model={"gradient_checkpointing": True}, init="folder").model
    assert isinstance(asked, HuggingFaceConfig) and asked.freeze_front_end


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"family": "foo"}, r"model\.family is 'foo'; choose conformer or hf"),
        ({"family": "hf", "config": {"layerdrop": 0.1}}, "`policy` says how blocks are dropped"),
        ({"family": "hf", "config": {"encoder_config": {"layerdrop": 0.1}}}, "`policy` says how blocks are dropped"),
        ({"family": "hf", "config": {"mask_time_prob": 0.1}}, "`spec_augment` says what is masked"),
        ({"family": "hf", "frozen": True}, r"unknown config key model\.frozen; .*known keys: family, config"),
    ],
)
def test_a_model_that_cannot_be_asked_for_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(model=model, init="folder")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'; choose wavlm"),
        ({"model_type": "parakeet_ctc"}, "Parakeet is not trained from scratch"),
        ({"model_type": "wavlm", "num_feat_extract_layers": 5}, "have 7, 7 and 7 entries, .* is 5"),
        ({"model_type": "wavlm", "conv_kernel": [3]}, "all four must agree"),
        ({"model_type": "wavlm", "hidden_act": "foo"}, "does not make a network"),
        ({"model_type": "wavlm", "num_attention_heads": 0}, "does not make a network"),
        ({"model_type": "wavlm", "to_dict": 1}, "a wavlm config has no key 'to_dict'"),
        ({"model_type": "wavlm", "conv_stride": [5, 2, 2, 2, 2, 2, 3]}, "are no whole number"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        new_hugging_face({**TINY, **settings}, processor())
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("in_config", "changes", "message"),
    [
        ({"num_hidden_layers": 3}, {}, r"weights of blocks that its config\.json does not name, the first .*layers\.3"),
        ({"conv_pos_batch_norm": True}, {}, "conv_pos_batch_norm"),
        ({"add_adapter": True}, {}, "add_adapter"),
        ({}, {"num_hidden_layers": 2}, "over a checkpoint only dropouts can be changed"),
        ({}, {"hidden_dropout": "much"}, "hidden_dropout cannot be 'much'|only dropouts"),
        ({}, {"dropuot": 0.1}, "no key 'dropuot'"),
    ],
)
def test_a_checkpoint_decides_all_but_its_dropouts(
    tmp_path: Path, in_config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    folder = save_tiny(tmp_path / "m", "hubert-base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **in_config}))
    with pytest.raises(UserError, match=message):
        load_hugging_face(folder, changes)


def test_dropouts_can_be_changed(tmp_path: Path) -> None:
    network, _ = load_hugging_face(save_tiny(tmp_path / "m", "wavlm-base"), {"hidden_dropout": 0.3})
    assert network.blocks[0].dropout.p == 0.3
    network, _ = load_hugging_face(save_tiny(tmp_path / "p", "parakeet"), {"activation_dropout": 0.3})
    assert network.blocks[0].feed_forward1.activation_dropout == 0.3


def test_checkpointing_is_as_the_recipe_says_and_not_as_the_checkpoint_does(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "wavlm-base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "gradient_checkpointing": True}))
    network, _ = load_hugging_face(folder)
    for wanted in (False, True, False):
        network.prepare_training(HuggingFaceConfig(gradient_checkpointing=wanted))
        assert {block.gradient_checkpointing for block in network.blocks} == {wanted}


@pytest.mark.parametrize("variant", ["wavlm-base", "parakeet"])
def test_norms_scales_and_biases_are_not_decayed(tmp_path: Path, variant: str) -> None:
    network, _ = load_hugging_face(save_tiny(tmp_path / variant, variant))
    groups = make_optimizer(network, OptimConfig(lr=0.1, head_lr=0.3, weight_decay=0.01)).param_groups
    names = {parameter: name for name, parameter in network.named_parameters()}
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    small = ("bias", "norm.weight", "gru_rel_pos_const", "original0", "bias_u", "bias_v", "spec_embed")
    assert decayed and not [name for name in decayed if name.endswith(small)]
    in_head = {names[p] for group in groups if group["lr_scale"] == pytest.approx(3.0) for p in group["params"]}
    assert in_head == {name for name in names.values() if "lm_head" in name or "ctc_head" in name}


def test_special_tokens_behind_the_head_do_not_count(tmp_path: Path) -> None:
    """Fine-tuning scripts add <s> and </s> to the tokenizer alone."""
    tokens = ("|", *"dehilmow", "[UNK]", "[PAD]")
    tokenizer = letters(tokens, unk_token="[UNK]", pad_token="[PAD]")
    assert len(tokenizer) == len(tokens) + 2
    network, ours = new_hugging_face(
        {**TINY, "model_type": "wavlm"}, Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer)
    )
    assert network.head.out_features == len(ours.tokens) == len(tokens)
    assert ours.decode(ours.encode("low middle")) == "low middle"


@pytest.mark.parametrize("delimiter", ["|", " ", "_", "<space>", "▁", "*"])
def test_words_stay_apart_whatever_parts_them(tmp_path: Path, delimiter: str) -> None:
    """In training, transcription and export; the library forgets the word delimiter when it loads."""
    tokenizer = letters(("<pad>", "<s>", "</s>", "<unk>", delimiter, *"ABC"), word_delimiter_token=delimiter)
    for folder, saved in ((tmp_path / "first", tokenizer), (tmp_path / "again", None)):
        processor = load_processor(tmp_path / "first") if saved is None else Wav2Vec2Processor(EXTRACTOR, saved)
        processor.save_pretrained(folder)
        own = HuggingFaceTokenizer(load_processor(folder), 8, "x")
        ids = own.encode("ab ca b")
        assert own.decode(ids) == own.decode([1, 2, 3, *ids, 3]) == "AB CA B"
        table, silent = piece_table(own)
        assert table.decode(ids) == table.decode([1, 2, 3, *ids]) == "AB CA B" and silent == (1, 2, 3)


def test_a_space_among_the_tokens_parts_words_where_nothing_says_what_does(tmp_path: Path) -> None:
    tokenizer = letters(("<pad>", "<s>", "</s>", "<unk>", " ", *"ABC"), word_delimiter_token=" ")
    Wav2Vec2Processor(EXTRACTOR, tokenizer).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in stored.items() if key != "word_delimiter_token"})
    )
    own = HuggingFaceTokenizer(load_processor(tmp_path), 8, "x")
    assert own.decode(own.encode("ab c")) == "AB C"


def test_letters_beyond_a_to_z_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "layerdial"):
        HuggingFaceTokenizer(processor("über"), 7, "MODEL")
    assert "MODEL writes letters beyond a-z (ü)" in caplog.text


def test_a_frame_must_go_into_the_windows_of_long_audio() -> None:
    with pytest.raises(UserError, match="480 samples, of which 2 s are no whole number"):
        HuggingFaceFeatures(Wav2Vec2FeatureExtractor(), [(10, 10, 0), (8, 8, 0), (6, 6, 0)])


def test_a_pre_trained_encoder_takes_the_vocabulary_of_the_reference(tmp_path: Path) -> None:
    reference = Reference.load(save_tiny(tmp_path / "reference", "wavlm-base"))
    encoder = tmp_path / "encoder"
    WavLMModel(tiny_model("wavlm-base", seed=1).config).save_pretrained(encoder)
    tiny_processor("wavlm-base").feature_extractor.save_pretrained(encoder)
    network, tokenizer = make_student(recipe(reference=str(reference.folder), init=str(encoder)), reference)
    assert tokenizer.tokens == reference.tokenizer.tokens
    assert network.head.out_features == len(tokenizer.tokens)


def test_a_student_of_the_references_vocabulary_keeps_its_head(tmp_path: Path) -> None:
    reference = Reference.load(save_tiny(tmp_path / "reference", "wavlm-base"))
    start = save_tiny(tmp_path / "start", "wavlm-base", seed=1)
    network, _ = make_student(recipe(reference=str(reference.folder), init=str(start)), reference)
    assert torch.equal(network.head.weight, tiny_model("wavlm-base", seed=1).lm_head.weight)
    assert tiny_processor("wavlm-base").tokenizer.get_vocab() == reference.tokenizer.processor.tokenizer.get_vocab()
