"""Models that nobody here wrote: what is found in them, and that it is widened exactly."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from modules_zoo import STRANGERS, tried  # noqa: E402

sys.path.remove(str(BENCHMARKS))

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
@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_found_in_a_stranger_is_widened_exactly(name):
    package, _ = STRANGERS[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    row = tried(name)
    found = row["groups"], row["outputs"], row["exact"]["new"], row["exact"]["copies"]
    assert found == FOUND[name], row["why"]
    assert row["worst"] < 1e-12
