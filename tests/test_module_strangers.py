"""Models that nobody here wrote: what is found in them, and that it is widened exactly."""

import importlib
import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("modules_zoo")


# Groups, of them outputs; widened exactly by new units, and by copies of every unit.
FOUND = {
    "GPT-2": (6, 1, 5, 5),
    "BERT": (7, 1, 5, 6),
    "ViT": (6, 1, 5, 5),
    "Llama": (6, 1, 5, 5),
    "ResNet": (9, 1, 8, 8),
    "MobileNetV2": (26, 1, 25, 25),
    "ConvNeXt": (6, 1, 3, 5),
    "Decoder": (4, 1, 1, 2),
    "EfficientNet": (25, 1, 24, 24),
    "FT-Transformer": (6, 1, 5, 5),
    "tabular ResNet": (4, 1, 3, 3),
    "U-Net": (4, 1, 3, 3),
    "SegResNet": (6, 1, 5, 5),
    "DenseNet": (11, 1, 10, 10),
    "ViT, monai": (4, 2, 1, 1),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of these packages
@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_in_a_stranger_is_widened_exactly(name, zoo):
    package, _ = zoo.STRANGERS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    row = zoo.tried(name)
    found = row["groups"], row["outputs"], row["exact"]["new"], row["exact"]["copies"]
    assert found == FOUND[name], row["why"]
    assert row["worst"] < 1e-12


def test_every_stranger_is_tried_and_every_rule_has_its_words(zoo):
    from semiflat.modules.known import known
    from semiflat.modules.rules import RULES

    assert set(FOUND) == set(zoo.STRANGERS)
    assert sorted(name for names in known().values() for name in names) == sorted(RULES)
    assert "`layer_norm`" in zoo.page({})
