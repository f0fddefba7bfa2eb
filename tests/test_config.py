"""Configurations: bad input is named with what is allowed, presets fill in the recipe, the hash covers the result."""

from dataclasses import asdict, fields, replace

import pytest

from daas_lab.compose import retrain_config, search_config
from daas_lab.config import PRESETS, RetrainConfig, SearchConfig
from daas_lab.data.sources import DATASETS
from daas_lab.errors import LabError, NewerVersion
from daas_lab.identity import checked_config, config_hash, from_document, to_document
from daas_lab.methods.lookup import METHODS
from daas_lab.methods.protocols import PROTOCOLS
from daas_lab.studies.settings import Settings, parse_settings


@pytest.mark.kind("searches that cannot work, of two cells, or with nothing to search")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "huge"}, ["preset = 'huge'", "tiny, quick, mini, full"]),
        ({"preset": "minni"}, ["did you mean mini?"]),
        ({"dataset": "mnist"}, ["dataset = 'mnist'", "fashion_mnist"]),
        ({"method": "dart"}, ["method = 'dart'", "did you mean darts?"]),
        ({"protocol": "text"}, ["protocol = 'text'", "paper, authors"]),
        ({"method": "da2s_exact", "epochs": 4, "hold": 4}, ["hold = 4", "less than epochs = 4"]),
        ({"lambda_1": "linear:"}, ["lambda_1 = 'linear:'", "linear or linear:delayed"]),
        ({"epochs": 0}, ["epochs = 0", "a whole number of at least 1"]),
        ({"epochs": "ten"}, ["epochs = 'ten'", "a whole number of at least 1"]),
        ({"epochs": 2.5}, ["epochs = 2.5", "a whole number"]),
        ({"epochs": True}, ["epochs = True", "a whole number"]),
        ({"seed": -1}, ["seed = -1", "at least 0"]),
        ({"learning_rate": 0}, ["learning_rate = 0", "above 0"]),
        ({"learning_rate": "nan"}, ["learning_rate = 'nan'", "a number above 0"]),
        ({"learning_rate": float("inf")}, ["learning_rate = inf", "a number"]),
        ({"momentum": 1.5}, ["momentum = 1.5", "at least 0 and of at most 1"]),
        ({"flip": "maybe"}, ["flip = 'maybe'", "true or false"]),
        ({"side": 10}, ["side = 10", "divisible by 4"]),
        ({"nodes": 13}, ["nodes = 13", "at most 12"]),
        ({"budget": "3,2,2,2"}, ["budget of node 2", "3", "1 to 2"]),
        ({"budget": "9/14"}, ["budget", "9/14"]),
        ({"nodes": 5, "budget": "8/14"}, ["budget", "for 3 intermediate nodes (nodes = 5)"]),
        ({"lambda_c": "cubic"}, ["lambda_c", "cubic", "linear"]),
        ({"lambda_1": "log:later"}, ["lambda_1", "log:later", "delayed"]),
        ({"channels": 6, "partial_channels": 4}, ["channels = 6", "divisible by partial_channels = 4"]),
        ({"batch_size": 97}, ["batch_size = 97", "at most weight_images = 96"]),
        ({"chanels": 4}, ["unknown search setting 'chanels'", "did you mean channels?"]),
        ({"layers": 2}, ["layers = 2", "at least 3"]),
        ({"classes": 12}, ["classes = 12", "10, which dataset = 'digits' has"]),
        ({"image_channels": 3}, ["image_channels = 3", "1, which"]),
        ({"data_digest": "0"}, ["unknown search setting 'data_digest'"]),
        ({"lambda_1": 3}, ["lambda_1", "3", "linear"]),
        ({"device": 0}, ["device = 0", "a text"]),
        ({"operations": 3}, ["operations = 3", "a text"]),
        ({"budget": "9" * 5000}, ["budget", "…", "8/14"]),
        ({"method": "darts2", "radius": []}, ["radius = []", "a number"]),
        # Nothing is searched: chance would be printed as its result.
        ({"warmup": 3}, ["warmup = 3", "less than epochs = 3", "α"]),
        ({"alpha_delay": 3}, ["alpha_delay = 3", "less than epochs = 3", "α"]),
        ({"epochs": 1, "warmup": 1}, ["warmup = 1", "less than epochs = 1"]),
        ({"arch_learning_rate": 1e-30}, ["arch_learning_rate = 1e-30", "the noise decides"]),
        ({"method": "darts", "arch_learning_rate": 1e-4}, ["arch_learning_rate", "noise of 0.001", "0.0009"]),
        ({"operations": "sep_conv_3x3", "budget": "2,3,4,5"}, ["operations", "sep_conv_3x3", "two or more"]),
        ({"operations": "sep_conv_3x3,none"}, ["operations", "two or more"]),
        ({"budget": "2,3,4,5*7"}, ["budget = '2,3,4,5*7'", "leaves something out"]),
        ({"operations": "skip_connect,max_pool_3x3", "budget": "2,3,4,5*2"}, ["budget", "leaves something out"]),
    ],
)
def test_bad_searches_name_field_value_and_what_is_allowed(changes, words):
    with pytest.raises(LabError) as error:
        search_config(**({"preset": "tiny", "dataset": "digits"} | changes))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"genotype": "DARTS_V3"}, ["DARTS_V3", "DARTS_V2"]),
        ({"form": "vgg"}, ["form = 'vgg'", "cifar, imagenet"]),
        ({"drop_path": 1}, ["drop_path = 1", "at most 0.9"]),
        ({"layers": 2}, ["layers = 2", "at least 3"]),
        ({"cutout": -1}, ["cutout = -1", "at least 0"]),
        ({"batch_size": 1}, ["batch_size = 1", "at least 2"]),
        ({"batch_size": 97}, ["batch_size = 97", "at most train_images = 96"]),
        ({"label_smoothing": 2}, ["label_smoothing = 2", "at most 1"]),
        ({"budget": "8/14"}, ["unknown retrain setting 'budget'"]),
        ({"form": "imagenet", "side": 100}, ["side = 100", "divisible by 32"]),
    ],
)
def test_bad_retrainings_name_field_value_and_what_is_allowed(changes, words):
    with pytest.raises(LabError) as error:
        retrain_config(**({"genotype": "DARTS_V2", "preset": "tiny", "dataset": "digits"} | changes))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_search_that_keeps_every_edge_or_every_operation_still_chooses():
    for budget in ("2,3,4,5", "8/14*7", "2,3,4,4*7"):
        assert search_config("tiny", "digits", budget=budget).budget == budget


def test_a_whole_number_is_not_rounded():
    for seed in (2**53 + 1, str(2**53 + 1), 2**70 + 1):
        assert search_config("tiny", "digits", seed=seed).seed == int(seed)


def test_texts_count_as_the_numbers_they_write():
    config = search_config("tiny", "digits", epochs="4", learning_rate="3e-2", flip="True", seed=2.0)
    assert (config.epochs, config.learning_rate, config.flip, config.seed) == (4, 0.03, True, 2)
    assert type(config.seed) is int
    assert config_hash(config) == config_hash(
        search_config("tiny", "digits", epochs=4, learning_rate=0.03, flip=True, seed=2)
    )


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_with_every_data_set(preset, dataset):
    for method in METHODS:
        config = search_config(preset, dataset, method)
        assert config.classes == DATASETS[dataset].classes and config.side <= 224
    retraining = retrain_config("PDARTS", preset, dataset)
    assert retraining.image_channels == DATASETS[dataset].image_channels


def test_the_search_of_the_paper():
    config = search_config("full", "cifar10")
    expected = {"layers": 8, "channels": 16, "epochs": 50, "batch_size": 64, "steps": 390, "side": 32}
    expected |= {"learning_rate": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "gradient_clip": 5.0}
    expected |= {"arch_learning_rate": 3e-4, "arch_weight_decay": 1e-3, "crop_padding": 4, "flip": True}
    expected |= {"weight_images": 25_000, "architecture_images": 25_000, "held_out_images": 0, "alpha_delay": 8}
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_shortened_search_lets_alpha_travel_as_far():
    def travel(config):
        return config.arch_learning_rate * config.epochs * config.steps

    assert travel(search_config("tiny", "fashion_mnist")) == pytest.approx(5.85, rel=0.05)
    # By measurement these two need more than the paper's search.
    assert travel(search_config("quick", "digits")) == pytest.approx(36)
    assert travel(search_config("mini", "fashion_mnist")) == pytest.approx(50)


def test_the_hash_covers_what_changes_the_result_and_nothing_else():
    config = search_config("tiny", "digits")
    other = {"device": "cuda", "threads": 3}
    assert config_hash(replace(config, **other)) == config_hash(config)
    assert config_hash(search_config("tiny", "digits", epochs=config.epochs)) == config_hash(config)
    for changes in ({"seed": 1}, {"budget": "4/14"}, {"epochs": 4}, {"lambda_2": "exp"}):
        assert config_hash(replace(config, **changes)) != config_hash(config)
    retraining = retrain_config("PDARTS", "tiny", "digits")
    assert config_hash(retraining) != config_hash(retrain_config("DARTS_V2", "tiny", "digits"))


@pytest.mark.parametrize("config", [search_config("tiny", "digits"), retrain_config("PDARTS", "tiny", "digits")])
def test_a_configuration_survives_being_written_down(config):
    kind = {SearchConfig: SearchConfig, RetrainConfig: RetrainConfig}[type(config)]
    assert kind(**asdict(config)) == config
    assert {spec.name for spec in fields(config)} == set(asdict(config))


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_method_is_in_the_configuration_and_its_hash(method):
    config = search_config("tiny", "digits", method)
    assert dict(config.numbers).keys() >= {"initial_noise"}
    for name, value in config.numbers:
        if isinstance(value, str):
            other = "6/14"
        else:
            other = (
                not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 0.6 * value + 0.37
            )
        changed = search_config("tiny", "digits", method, **{name: other})
        assert dict(changed.numbers)[name] == other and config_hash(changed) != config_hash(config), name


def test_a_constant_changed_in_the_code_is_another_search(monkeypatch):
    """Also a protocol's, though every run names its protocol."""
    before = config_hash(search_config("tiny", "digits"))
    changed = replace(PROTOCOLS["authors"], square_factor=0.3)
    monkeypatch.setitem(PROTOCOLS, "authors", changed)
    assert config_hash(search_config("tiny", "digits")) != before


def test_what_older_versions_wrote_is_brought_up_to_date_and_a_newer_field_is_named():
    config = search_config("tiny", "digits", protocol="paper")
    document = to_document(config)
    assert from_document("search", document) == config
    del document["numbers"]
    assert from_document("search", document) == config
    with pytest.raises(NewerVersion, match="made by a newer version of daas_lab: this one knows no field 'temper'"):
        from_document("search", document | {"temper": 1})
    with pytest.raises(NewerVersion, match="this one knows no method 'da3s'"):
        from_document("search", document | {"method": "da3s"})
    with pytest.raises(NewerVersion, match="this one knows no number 'sharpness' of a method"):
        from_document("search", to_document(config) | {"numbers": {"sharpness": 1.0}})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_number_that_a_method_got_later_is_what_it_always_was(protocol):
    config = search_config("tiny", "digits", protocol=protocol)
    for name in dict(config.numbers):
        document = to_document(config)
        del document["numbers"][name]
        assert from_document("search", document) == config


def test_what_has_no_effect_makes_no_other_search_and_what_was_written_with_it_is_found():
    before = search_config("tiny", "digits")
    assert search_config("tiny", "digits", retire_after=5) == before
    assert search_config("tiny", "digits", retire=0.01, retire_after=5).retire_after == 5
    written = replace(before, retire_after=5)  # by a version that hashed it
    document = {"kind": "search", "hash": config_hash(written), "config": to_document(written)}
    assert checked_config(document) == written


def test_five_nodes_have_a_budget_of_their_own_and_one_search_serves_them_all():
    config = Settings(preset="tiny", dataset="digits").search("darts", 0, nodes=5, budget="2,2,1")
    assert config.nodes == 5 and config == Settings(preset="tiny", dataset="digits").search("darts", 0, nodes=5)


@pytest.mark.kind("parameters as papermill gives them")
@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        *(("publish", text, True) for text in ("true", "True", "TRUE", True)),
        *(("records", text, False) for text in ("false", "False", False)),
        *(("epochs", text, 3) for text in ("3", 3, 3.0, "3.0")),
        *(("retrain_epochs", text, None) for text in (None, "none", "None")),
        ("workers", "2", 2),
        *(("seeds", text, (0, 1)) for text in ("[0, 1]", "0,1", "0, 1", "(0, 1)", [0, 1], (0, 1))),
        *(("seeds", text, (3,)) for text in ("3", "[3]", 3)),
        ("budget", "1,1,2,2", "6/14"),
    ],
)
def test_papermill_passes_on_texts(name, given, read):
    assert getattr(parse_settings({name: given}), name) == read


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("publish", value) for value in ("yes", "", 1, None)),
        *(("epochs", value) for value in ("ten", 0, "2.5", True, [3])),
        *(("seeds", value) for value in ("", "[]", "0 1", "[0.5]", "true", True, "[0, 0]", None, "[" * 9999)),
        *(("workers", value) for value in (-1, "none", 1e9)),
        *(
            (name, value)
            for name in ("preset", "dataset", "protocol", "budget", "device")
            for value in (3, None, ["x"])
        ),
        *((name, value) for name in ("runs", "figures", "data") for value in ("", 3, None, "a\0b")),
    ],
)
def test_a_parameter_that_cannot_be_is_named(name, given):
    with pytest.raises(LabError, match=rf"^{name}\b"):
        parse_settings({name: given})
