"""Units and exact widening of models that nobody here wrote: `python benchmarks/modules_zoo.py [--write]`.

Models of other packages (`pip install "semiflat[zoo]"`), from tiny configurations, with random weights. Of
every group of units that is not refused, two new units are added, and every unit is copied. With `--write` the
table goes into `docs/modules_known.md`, below that of the operations that are known.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import semiflat as sf
from semiflat.errors import InputError
from semiflat.modules.known import table_of_operations

PAGE = Path(__file__).parents[1] / "docs" / "modules_known.md"
Made = tuple[nn.Module, Any]


def _ids() -> torch.Tensor:
    return torch.randint(0, 20, (2, 5))


def gpt2() -> Made:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=8,
        vocab_size=20,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config), {"input_ids": _ids(), "use_cache": False}


_SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}


def bert() -> Made:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, max_position_embeddings=16, **_SMALL)
    return BertForSequenceClassification(config), {"input_ids": _ids()}


def vit() -> Made:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, **_SMALL)
    return ViTForImageClassification(config), {"pixel_values": torch.randn(2, 1, 8, 8)}


def llama() -> Made:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=20,
        max_position_embeddings=16,
        num_key_value_heads=2,
        **{**_SMALL, "num_attention_heads": 4},
    )
    return LlamaForCausalLM(config), {"input_ids": _ids(), "use_cache": False}


def resnet() -> Made:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 2],
        layer_type="bottleneck",
    )
    return ResNetForImageClassification(config), {"pixel_values": torch.randn(2, 1, 16, 16)}


def mobilenet() -> Made:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_channels=1, image_size=32, depth_multiplier=0.25)
    return MobileNetV2ForImageClassification(config), {"pixel_values": torch.randn(2, 1, 32, 32)}


def convnext() -> Made:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=1, hidden_sizes=[4, 8], depths=[1, 2], num_stages=2, patch_size=2
    )
    return ConvNextForImageClassification(config), {"pixel_values": torch.randn(2, 1, 16, 16)}


def x_decoder() -> Made:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=16, depth=1, heads=2, attn_dim_head=4)
    return TransformerWrapper(num_tokens=20, max_seq_len=16, attn_layers=layers), _ids()


def efficientnet() -> Made:
    from efficientnet_pytorch import EfficientNet

    model = EfficientNet.from_name(
        "efficientnet-b0",
        image_size=32,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        num_classes=3,
        drop_connect_rate=0.0,
        dropout_rate=0.0,
    )
    model.set_swish(memory_efficient=False)
    # At its end the maps are of one pixel: of two images, their statistics round so much coarser that each edit
    # has to be weighed against that (`widen` says so in its note), which takes long.
    return model, torch.randn(8, 3, 32, 32)


def ft_transformer() -> Made:
    from rtdl_revisiting_models import FTTransformer

    model = FTTransformer(
        n_cont_features=3,
        cat_cardinalities=[4],
        d_out=2,
        n_blocks=2,
        d_block=8,
        attention_n_heads=2,
        attention_dropout=0.0,
        ffn_d_hidden=6,
        ffn_d_hidden_multiplier=None,
        ffn_dropout=0.0,
        residual_dropout=0.0,
    )
    return model, (torch.randn(4, 3), torch.randint(0, 4, (4, 1)))


def tabular_resnet() -> Made:
    from rtdl_revisiting_models import ResNet

    model = ResNet(
        d_in=3,
        d_out=2,
        n_blocks=2,
        d_block=6,
        d_hidden=5,
        d_hidden_multiplier=None,
        dropout1=0.0,
        dropout2=0.0,
    )
    return model, torch.randn(4, 3)


def monai_unet() -> Made:
    from monai.networks.nets import UNet

    return UNet(2, 1, 2, (4, 8, 8), (2, 2), num_res_units=1), torch.randn(2, 1, 16, 16)


def monai_segresnet() -> Made:
    from monai.networks.nets import SegResNet

    model = SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,))
    return model, torch.randn(2, 1, 16, 16)


def monai_densenet() -> Made:
    from monai.networks.nets import DenseNet

    model = DenseNet(2, 1, 2, init_features=4, growth_rate=4, block_config=(2, 2))
    return model, torch.randn(2, 1, 32, 32)


def monai_vit() -> Made:
    from monai.networks.nets import ViT

    model = ViT(1, (8, 8), (4, 4), 8, 12, 1, 2, classification=True, spatial_dims=2)
    return model, torch.randn(2, 1, 8, 8)


STRANGERS: dict[str, tuple[str, Callable[[], Made]]] = {
    "GPT-2": ("transformers", gpt2),
    "BERT": ("transformers", bert),
    "ViT": ("transformers", vit),
    "Llama": ("transformers", llama),
    "ResNet": ("transformers", resnet),
    "MobileNetV2": ("transformers", mobilenet),
    "ConvNeXt": ("transformers", convnext),
    "Decoder": ("x_transformers", x_decoder),
    "EfficientNet": ("efficientnet_pytorch", efficientnet),
    "FT-Transformer": ("rtdl_revisiting_models", ft_transformer),
    "tabular ResNet": ("rtdl_revisiting_models", tabular_resnet),
    "U-Net": ("monai", monai_unet),
    "SegResNet": ("monai", monai_segresnet),
    "DenseNet": ("monai", monai_densenet),
    "ViT, monai": ("monai", monai_vit),
}


def tried(name: str) -> dict[str, Any]:
    """What is found in a model, and how many of its groups are widened exactly; reasons for the others."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    package, make = STRANGERS[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of these packages
        model, example = make()
        model.eval()
        with torch.no_grad():
            for tensor in model.parameters():
                if tensor.ndim == 1:  # gains of 1 and biases of 0 would hide what is not exact
                    tensor.add_(0.3 * torch.rand_like(tensor))
        start = time.perf_counter()
        groups = sf.units(model, example)
        seconds = time.perf_counter() - start
        can = [group for group in groups.values() if not group.refuses]
        exact = {"new": 0, "copies": 0}
        why: dict[str, int] = {}
        worst = 0.0
        for group in can:
            ways = {"new": {"units": 2}, "copies": {"copies": dict.fromkeys(range(group.size), 2)}}
            for way, given in ways.items():
                try:
                    wide = sf.widen(model, example, group, **given)
                except InputError as error:
                    reason = (
                        str(error).split(": ", 1)[-1]
                        if "so it is not exact" in str(error)
                        else str(error)
                    )
                    why[f"`{group.name}`, {way}: {reason}"] = 1
                else:
                    exact[way] += 1
                    if not wide.note.startswith("the model rounds"):
                        worst = max(worst, wide.output_change)
    for group in groups.values():
        if group.refuses and group.refuses != "it is an output of the model":
            why[f"`{group.name}`: {group.refuses}"] = 1
    return {
        "package": package,
        "groups": len(groups),
        "outputs": sum(g.refuses == "it is an output of the model" for g in groups.values()),
        "can": len(can),
        "exact": exact,
        "worst": worst,
        "why": list(why),
        "seconds": seconds,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as a table, and the reasons below."""
    lines = [
        "| model | package | groups | outputs | changeable | new units exact | copies exact | largest change |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        exact = row["exact"]
        lines.append(
            f"| {name} | {row['package']} | {row['groups']} | {row['outputs']} | {row['can']} "
            f"| {exact['new']} | {exact['copies']} | {row['worst']:.0e} |"
        )
    lines.append("")
    lines += [f"- {name}, {why}" for name, row in rows.items() for why in row["why"]]
    return "\n".join(lines) + "\n"


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page of what is known."""
    return (
        "# What is known of modules\n\nMade by `python benchmarks/modules_zoo.py --write` from the code.\n\n"
        "## Operations\n\n" + table_of_operations() + "\n## Models that nobody here wrote\n\n"
        "From tiny configurations, with random weights. *Outputs*: groups that are outputs of the model, which "
        "stay. *Largest change*: of an output in float64, in training and evaluation mode, relative to the "
        "outputs, over all that was widened exactly.\n\n" + table(rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="MODEL", help=", ".join(STRANGERS))
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()
    rows = {}
    for name in given.names or STRANGERS:
        try:
            rows[name] = tried(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        print(name, rows[name], flush=True)
    print(table(rows))
    if given.write:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
