# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Conversion of pretrained checkpoints: loads one, inserts the pooling modules, checks the result and writes it."""

import copy
import difflib
import operator
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneMixin

from cp_transformers_cli.convert import make_parser

from .. import __version__
from ..families import FAMILIES, Family, family_of, tower_config
from ..files import new_checkpoint_folder, write_json
from .model_card import digests, read_license, write_card
from .parity import (
    build_options,
    check_written,
    hidden_state_distances,
    load_and_compare_keys,
    parity,
    quiet,
)
from .processors import copy_processor
from .reading import (
    CODE_FIELDS,
    CheckpointError,
    fetch,
    first_line,
    read_model_type,
    reading,
    sha256,
    shortened_list,
    weight_files,
)


# Where it is told how a family is added.
GUIDE = "docs/adding_a_family.md in the repository of this package"
# The beginnings of the keys of two towers that are not of the image tower.
TEXT_TOWER = ("text_model.", "text_projection.", "logit_scale", "logit_bias")


def parse_layers(layers: str | Sequence[int] | None, num_layers: int) -> list[int]:
    """The indices of the layers to keep.

    Args:
        layers: indices, or a string: "0,1,2,3"; "first:4"; "last:4"; "every:2" (layers 0, 2, 4, ...). None: all.
        num_layers: how many layers there are.

    Raises:
        CheckpointError: the string has another form, or an index is no integer, out of range or repeated.
    """
    if layers is None:
        return list(range(num_layers))
    if isinstance(layers, str):
        if match := re.fullmatch(r"(first|last|every):(\d+)", layers.strip()):
            count = int(match[2])
            if not 1 <= count <= num_layers:
                raise CheckpointError(f"{layers}: the number must be from 1 to {num_layers}.")
            every = range(num_layers)
            return list({"first": every[:count], "last": every[-count:], "every": every[::count]}[match[1]])
        if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", layers):
            raise CheckpointError(f"{layers}: give layers as in 0,1,2,3, or first:4, last:4 or every:2.")
        layers = [int(index) for index in layers.split(",")]
    try:
        layers = [operator.index(each) for each in layers]
    except TypeError as error:
        raise CheckpointError(f"{layers}: give the layers' indices, as in [0, 1, 2, 3].") from error
    if not layers:
        raise CheckpointError("No layer would be left; name at least one.")
    outside = [index for index in layers if not 0 <= index < num_layers]
    if outside:
        count = outside[0]
        hint = f" The first {count} are first:{count}." if len(layers) == 1 and 0 < count <= num_layers else ""
        raise CheckpointError(f"There is no layer {count}; the layers are 0 to {num_layers - 1}.{hint}")
    if len(set(layers)) < len(layers):
        raise CheckpointError(f"A layer can be kept only once: {','.join(map(str, layers))}.")
    return layers


def cut_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A model of the same class, dtype and device that has only these layers of `model`, in this order. What is frozen
    there is frozen here.

    Raises:
        CheckpointError: the model's family is not one that can be converted, or has no layers that can be left out; an
            index is out of range or repeated.
    """
    if family_of(model.config) is not None:
        raise CheckpointError(f"A {model.config.model_type} model keeps its layers: cut its source, and convert that.")
    family = _family(model.config.model_type)
    kept = _kept_layers(family, type(model).__name__, model.config, layers)
    config = _config_with(type(model.config), model.config, kept)
    config._attn_implementation = model.config._attn_implementation
    cut = type(model)(config, **build_options(model)).to(model.device, model.dtype)
    cut.load_state_dict(_kept_entries(family, model, model.state_dict(), kept))
    _freeze(cut, _kept_entries(family, model, dict(model.named_parameters()), kept))
    return cut.train(model.training)


def convert_model(
    model: PreTrainedModel,
    layers: Sequence[int] | None = None,
    halve_before: str | Sequence[int] | None = None,
    **pool_config: Any,
) -> PreTrainedModel:
    """The ContextPool variant of `model`, in memory: same weights, new pooling modules, same head.

    Args:
        model: a stock model of a family that can be converted, with any of its heads.
        layers: the indices of the layers to keep; None for all.
        halve_before: the converted model's layers before which every second token is dropped (of patches three in
            four), after it has been pooled: short for `pool_strides` with 2 at these layers.
        pool_config: fields of the new configuration that begin with `pool_`; `pool_gate` is True by default. With
            `pool_strides` only the layers that drop tokens pool, unless `pool_layers` names others. With
            `pool_layers=[]` and no strides nothing pools, and the result is a stock model of the class of `model`.

    Returns:
        A model in evaluation mode, of the dtype and on the device of `model`; what is frozen there is frozen here. Its
        pooling modules are drawn from torch's generator.

    Raises:
        CheckpointError: the model cannot be converted, a `pool_` field is wrong, or the keys of the two models differ
            by more than the pooling modules.
    """
    family = _family(model.config.model_type)
    model_class = _converted_class(family, type(model).__name__)
    if getattr(model.config, "is_decoder", False):
        raise CheckpointError("The source is a decoder; only encoders can be converted.")
    kept = _kept_layers(family, type(model).__name__, model.config, layers)
    config = _converted_config(family, model.config, kept, halve_before, pool_config)
    config._attn_implementation = model.config._attn_implementation

    if family_of(config) is None:  # without pooling
        model_class = type(model)
    converted = model_class(config, **build_options(model)).to(model.device, model.dtype)
    missing, unexpected = converted.load_state_dict(_kept_entries(family, model, model.state_dict(), kept), False)
    new = (".context_pool.", ".context_restore.")
    foreign = [key for key in missing if not any(name in key for name in new)] + unexpected
    if foreign:
        raise CheckpointError(f"The source's weights do not fit {model_class.__name__}: {shortened_list(foreign)}.")
    _freeze(converted, _kept_entries(family, model, dict(model.named_parameters()), kept))
    return converted.eval()


def convert_checkpoint(
    source: str | os.PathLike,
    output: str | os.PathLike,
    *,
    revision: str | None = None,
    layers: str | Sequence[int] | None = None,
    halve_before: str | Sequence[int] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    **pool_config: Any,
) -> dict[str, Any]:
    """Converts a pretrained checkpoint and writes the result: config, safetensors, card, conversion.json, and the
    source's tokenizer or image processor.

    Nothing is written unless every check passes: all of the source's weights are used and none is missing, the
    converted model's keys are the source's and the pooling's, and, in float32, its outputs equal those of the source
    (cut to the same layers); with the gate, which starts at zero, the difference must be exactly 0.0. A model that
    drops tokens cannot equal its source: the check is then of the same weights with all tokens, and how far the result
    is from the source is written down as `start`.

    Args:
        source: a folder, or the id of a model on the Hub, of any head of a family that can be converted. A Hub token
            is taken from the environment or from `hf auth login`.
        output: the folder to write.
        revision: branch, tag or commit, for a source on the Hub.
        layers: the source's layers to keep, see [`parse_layers`].
        halve_before: see [`convert_model`]; it takes the notation of [`parse_layers`] as well.
        dtype: "float32", "float16" or "bfloat16"; None for the source's own. The checks are made in float32, of a
            source in float64 in that.
        overwrite: replace a checkpoint that stands at `output`.
        pool_config: fields of the new configuration that begin with `pool_`; `pool_gate` is True by default, and
            `pool_layers` takes the notation of [`parse_layers`] as well. With `pool_layers=[]` nothing pools: the
            result is a stock checkpoint of the source's class, the control of a model that pools, without a card.

    Returns:
        The record that is written to `conversion.json`.

    Raises:
        CheckpointError: with one sentence that says what is wrong and what to do.
        FileExistsError: see [`~cp_transformers.files.new_checkpoint_folder`].
        OSError: the output cannot be written.
    """
    if dtype not in (None, "float32", "float16", "bfloat16"):
        raise CheckpointError(f"dtype must be float32, float16 or bfloat16, not {dtype}.")
    if Path(source).resolve() == Path(output).resolve():
        raise CheckpointError(f"{output} is the source itself; choose another output.")
    with new_checkpoint_folder(output, overwrite) as folder, quiet():
        source_folder, commit = fetch(source, revision)
        family = _family(read_model_type(source_folder))
        source_config = _load_config(source_folder, family)
        kept = _kept_layers(family, source_config.architectures[0], source_config, layers)
        _converted_config(
            family, source_config, kept, halve_before, pool_config
        )  # what is wrong there is said at once
        sources = weight_files(source_folder)
        model, left_out = _load_source(source_folder, family, source_config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            converted = convert_model(model, kept, halve_before, **pool_config)
        source_dtype = model.config.dtype or torch.float32
        checked = torch.promote_types(source_dtype, torch.float32)
        model, converted = model.to(checked), converted.to(checked)
        reference = model if layers is None else cut_layers(model, kept or [])
        strided = getattr(converted.config, "is_strided", False)
        difference = parity(reference, _with_all_tokens(converted) if strided else converted)
        # where no gate lets pooling through, or nothing pools; written so that NaN fails as well
        exact = getattr(converted.config, "pool_gate", True) or getattr(converted.config, "pool_layers", None) == []
        if not (difference == 0.0 if exact else difference < float("inf")):
            raise CheckpointError(
                f"The converted model's outputs differ from the source's by {difference}; nothing was written. "
                "Please report this with the source's name."
            )

        record: dict[str, Any] = {
            "source": os.path.basename(os.path.abspath(source)) if Path(source).is_dir() else str(source),
            "revision": revision,
            "commit": commit,
            "license": read_license(source_folder),
            "source_sha256": {file.name: sha256(file) for file in sources},
            "source_class": type(model).__name__,
            "model_class": type(converted).__name__,
            "layers": kept,
            "source_layers": None if kept is None else tower_config(model.config).num_hidden_layers,
            "pool_config": {
                name: value
                for name, value in converted.config.to_dict().items()
                if name.startswith("pool_") and not hasattr(family.stock_config_class, name)
            },
            "dtype": dtype or str(source_dtype).removeprefix("torch."),
            "left_out": left_out,
            "parity": {"max_abs_difference": difference, "dtype": str(checked).removeprefix("torch.")},
            "start": hidden_state_distances(reference, converted) if strided else None,
            "versions": {
                "cp_transformers": __version__,
                "transformers": transformers.__version__,
                "torch": torch.__version__,
                "safetensors": safetensors.__version__,
                "huggingface_hub": huggingface_hub.__version__,
            },
        }
        converted = converted.to(getattr(torch, record["dtype"]))
        try:
            converted.save_pretrained(folder)
        except safetensors.SafetensorError as error:  # a full disk
            raise OSError(f"The weights cannot be written ({first_line(error)}).") from error
        record["processor_files"] = copy_processor(source_folder, folder)
        record["weights_sha256"] = digests(folder)
        write_json(folder / "conversion.json", record)
        if family_of(converted.config) is not None:
            write_card(folder, Path(output).resolve().name)
        check_written(folder, converted)
    return record


def _family(model_type: str) -> Family:
    if family_of(model_type) is not None:
        raise CheckpointError(f"The source is a {model_type} checkpoint already; there is nothing to convert.")
    families = {each: family for family in FAMILIES.values() for each in family.source_types}
    if model_type not in families:
        inside = sorted((each for each in families if each in model_type), key=len)
        near = difflib.get_close_matches(model_type, families, n=1) or inside[-1:]
        nearest = f"; the nearest by name is {near[0]}" if near else ""
        raise CheckpointError(
            f'Model type "{model_type}" cannot be converted; the types that can are: {", ".join(families)}{nearest}; '
            f"how to add one is told by {GUIDE}."
        )
    return families[model_type]


def _converted_class(family: Family, source_class: str) -> type[PreTrainedModel]:
    if source_class not in family.models:
        raise CheckpointError(
            f"{source_class} cannot be converted; the classes that can are: {', '.join(sorted(family.models))}."
        )
    return family.models[source_class]


def _kept_layers(
    family: Family, source_class: str, config: PreTrainedConfig, layers: str | Sequence[int] | None
) -> list[int] | None:
    """The indices of the layers to keep, or None where all must stay."""
    if family.has_layers:
        num_layers = tower_config(config).num_hidden_layers
        kept = parse_layers(layers, num_layers)
        model_class = family.models.get(source_class)
        makes_maps = model_class is not None and (model_class.makes_maps or issubclass(model_class, BackboneMixin))
        if kept != list(range(num_layers)) and makes_maps and len(config.out_features) > 1:
            raise CheckpointError(
                f"{source_class} makes feature maps of several layers ({', '.join(config.out_features)}), so that "
                "none can be left out; keep all layers."
            )
        return kept
    if layers is not None:
        raise CheckpointError(
            f"The layers of a {config.model_type} differ in shape, so that none can be left out; do not give any."
        )
    return None


def _converted_config(
    family: Family,
    config: PreTrainedConfig,
    layers: Sequence[int] | None,
    halve_before: str | Sequence[int] | None,
    pool_config: dict[str, Any],
) -> PreTrainedConfig:
    """The configuration of the converted model: that of a stock model where no layer is to pool."""
    if pool_config.get("pool_layers") == "none":
        raise CheckpointError("To pool in none of the layers, give --no-pool, in Python pool_layers=[].")
    if foreign := [name for name in pool_config if not name.startswith("pool_")]:
        raise CheckpointError(f"Only fields that begin with pool_ can be set, not {shortened_list(foreign)}.")
    fields = {"pool_gate": True, **pool_config}
    if fields.get("pool_strides") is not None or halve_before is not None:
        if layers is None:
            raise CheckpointError(f"A {config.model_type} has no layers that could keep fewer tokens.")
        fields["pool_strides"] = _strides(fields.get("pool_strides"), halve_before, len(layers))
        fields.setdefault("pool_layers", [])
        if fields["pool_layers"] == []:
            _check_strided_only(pool_config)
            fields["pool_gate"] = False
    elif isinstance(pool_config.get("pool_layers"), (list, tuple)) and not pool_config["pool_layers"]:
        return _stock_config(family, config, layers, pool_config)
    if layers is not None and fields.get("pool_layers"):
        fields["pool_layers"] = parse_layers(fields["pool_layers"], len(layers))
    return _config_with(family.config_class, config, layers, **fields)


def _check_strided_only(pool_config: dict[str, Any]) -> None:
    """Refuses what would have no effect where only the layers that drop tokens pool."""
    unused = ("pool_range", "pool_max_offset", "pool_placement", "pool_gate")
    if given := [name for name in unused if name in pool_config]:
        raise CheckpointError(
            f"{shortened_list(given)} would have no effect: only layers that drop tokens pool, by sizes and offsets "
            "in proportion to the stride and without a gate. Leave it out, or name other layers by pool_layers."
        )


def _strides(
    strides: str | Sequence[int] | None, halve_before: str | Sequence[int] | None, num_layers: int
) -> list[int]:
    """The stride of each layer: from a list, a string such as "1,1,2,1", or the layers that halve the tokens."""
    if halve_before is not None:
        if strides is not None:
            raise CheckpointError("Give either the strides of all layers or the layers that halve the tokens.")
        halving = parse_layers(halve_before, num_layers)
        return [2 if index in halving else 1 for index in range(num_layers)]
    if isinstance(strides, str):
        if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", strides):
            raise CheckpointError(f"{strides}: give one stride a layer, as in 1,1,2,1.")
        strides = [int(stride) for stride in strides.split(",")]
    strides = list(strides or ())
    if any(isinstance(stride, int) and stride < 1 for stride in strides):
        raise CheckpointError(f"{strides}: a stride is at least 1, with which a layer keeps all tokens.")
    if not any(isinstance(stride, int) and stride > 1 for stride in strides):
        raise CheckpointError(
            f"{strides}: no stride is above 1, so that no token would be dropped; leave strides out."
        )
    return strides


def _with_all_tokens(model: PreTrainedModel) -> PreTrainedModel:
    """A model with the weights of `model`, which drops tokens, that drops none: without the pools that do."""
    config = copy.deepcopy(model.config)
    pooled = range(config.num_hidden_layers) if config.pool_layers is None else config.pool_layers
    config.pool_layers = [index for index in pooled if config.pool_strides[index] == 1]
    config.pool_strides = config.pool_restore_layer = None
    whole = type(model)(config, **build_options(model)).to(model.device, model.dtype)
    missing = whole.load_state_dict(model.state_dict(), strict=False).missing_keys
    if missing:
        raise CheckpointError(f"The weights of {type(model).__name__} lack {shortened_list(missing)}.")
    return whole.eval()


def _stock_config(
    family: Family, config: PreTrainedConfig, layers: Sequence[int] | None, pool_config: dict[str, Any]
) -> PreTrainedConfig:
    """The configuration of the source without the layers that are cut."""
    if not family.has_layers:
        raise CheckpointError(
            f"Without pooling a {config.model_type} would be the source itself, since its layers cannot be cut."
        )
    if others := [name for name in pool_config if name != "pool_layers"]:
        raise CheckpointError(f"Where nothing pools, {shortened_list(others)} cannot be set; leave it out.")
    return _config_with(type(config), config, layers)


def _config_with(
    config_class: type[Any], config: PreTrainedConfig, layers: Sequence[int] | None, **fields: Any
) -> PreTrainedConfig:
    """A configuration of `config_class` with the fields of `config`, these `layers` and other `fields`."""
    # Not its name either, by which adapters of the model that is made would find the source as their base.
    own = ("model_type", "_name_or_path", "name_or_path", *CODE_FIELDS)
    kept = {name: value for name, value in config.to_dict().items() if name not in own}
    tower = kept.get("vision_config", kept)
    if layers is not None:
        tower["num_hidden_layers"] = len(layers)
        if tower.get("layer_types"):
            tower["layer_types"] = [tower["layer_types"][index] for index in layers]
    if tower is not kept and config_class is not type(config):  # of the image tower alone, with the labels of the head
        of_any = PreTrainedConfig().to_dict()
        kept = {**tower, **{name: each for name, each in kept.items() if name in of_any}}
        kept = {name: each for name, each in kept.items() if name not in own}
    if layers is not None:
        fewer = len(layers) < tower_config(config).num_hidden_layers
        if fewer and kept.get("stage_names"):  # a backbone has one a layer
            kept = {name: kept[name] for name in kept if name not in ("stage_names", "out_features", "out_indices")}
    try:
        return config_class.from_dict({**kept, **fields})
    except (StrictDataclassError, ValueError) as error:
        raise CheckpointError(str(error.__cause__ or error)) from error


def _kept_entries(
    family: Family, model: nn.Module, entries: Mapping[str, torch.Tensor], layers: Sequence[int] | None
) -> Mapping[str, torch.Tensor]:
    """The entries of `model` outside its layers, of which those of its [`~Family.over_layers`] keep the columns of
    `layers`, and those of `layers` under their new indices.

    Raises:
        CheckpointError: a layer has other weights than the one in whose place it comes, such as ModernBERT's first.
    """
    found = family.layers(model)
    if layers is None or found is None:
        return entries
    names = [{name for name, _ in layer.named_parameters()} for layer in found[1]]
    if moved := [old for new, old in enumerate(layers) if names[new] != names[old]]:
        raise CheckpointError(
            f"Layer {moved[0]} of a {family.model_type} cannot become layer {list(layers).index(moved[0])}, "
            "which has other weights: let the first layer stay the first, as in first:4 or every:2."
        )
    new_index = {str(old): str(new) for new, old in enumerate(layers)}
    kept = {}
    for key, tensor in entries.items():
        index, _, rest = key.removeprefix(f"{found[0]}.").partition(".")
        if key.endswith(family.over_layers):
            kept[key] = tensor.unflatten(1, (len(found[1]), -1))[:, list(layers)].flatten(1)
        elif not key.startswith(f"{found[0]}."):
            kept[key] = tensor
        elif index in new_index:
            kept[f"{found[0]}.{new_index[index]}.{rest}"] = tensor
    return kept


def _freeze(model: PreTrainedModel, as_in: Mapping[str, torch.Tensor]) -> None:
    """Lets those of a model's parameters be trained that are `as_in` the mapping, and all that it has not."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in as_in or as_in[name].requires_grad)


def _load_config(folder: Path, family: Family) -> PreTrainedConfig:
    """The source's configuration, which names a class that can be converted."""
    with reading(folder / "config.json"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = (config.architectures or [None])[0]
    if named is None:
        raise CheckpointError(
            f'{folder / "config.json"} does not name the model\'s class; add "architectures", one of: '
            f"{', '.join(sorted(family.models))}."
        )
    if type(config) is not family.stock_config_class and named not in family.models:
        return _image_tower(family, config)
    _converted_class(family, named)
    return config


def _load_source(folder: Path, family: Family, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """The source's model, in the class that its config names, with all of its weights: where they hold more than that
    class (as BERT's own do: masked language modelling is named, all pretraining heads are there), the full one. And
    what was left out: a pooler that the class does not use, as it was saved with heads for tokens in earlier times."""
    named = config.architectures[0]
    found = {}
    for name in dict.fromkeys([named, family.pretraining_model or named]):
        with reading(f"{folder} as {name}"):
            model, missing, unexpected = load_and_compare_keys(getattr(transformers, name), folder, config)
        unexpected = [key for key in unexpected if not key.endswith(".position_ids")]
        if not missing and not unexpected:
            return model, []
        found[name] = model, missing, unexpected
    model, missing, unexpected = found[named]
    if not missing and all(".pooler." in key for key in unexpected):
        return model, unexpected
    if not missing and len(family.source_types) > 1 and all(key.startswith(TEXT_TOWER) for key in unexpected):
        return model, sorted({key.partition(".")[0] for key in unexpected})
    problem = f"missing {shortened_list(missing)}" if missing else f"not part of it {shortened_list(unexpected)}"
    raise CheckpointError(
        f"The weights in {folder} are not those of {named}, which its config.json names: {problem}. "
        'Correct "architectures", or save the model again with its class.'
    )


def _image_tower(family: Family, config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of the image tower, out of that of two towers without a head of the images'; with the
    projection, where there is one."""
    tower = tower_config(config)
    tower.architectures = [next((name for name in family.models if "Projection" in name), next(iter(family.models)))]
    tower.dtype = config.dtype
    if hasattr(config, "projection_dim"):
        tower.projection_dim = config.projection_dim
    return tower


def main(args: Sequence[str] | None = None) -> None:
    """The command `cp-transformers convert`."""
    options = vars(make_parser().parse_args(args))
    if options.get("pool_layers") == [] and ("halve_before" in options or "pool_strides" in options):
        raise CheckpointError(
            "--no-pool inserts no pooling, and --halve-before and --pool-strides pool before they drop tokens: give "
            "one of them."
        )
    record = convert_checkpoint(**options)
    print("\n".join(_report(options, record)))
    if record["left_out"]:
        print(f"left out, since {record['source_class']} does not use it: {shortened_list(record['left_out'])}")
    if not record["processor_files"]:
        print("The source has no tokenizer or image processor; none was copied.")


# The end of a class's name -> the command that trains such models
COMMANDS = {
    "ForSequenceClassification": "glue",
    "ForMaskedLM": "mlm",
    "ForImageClassification": "imagenet",
}


def _report(options: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """The lines that the command prints of what it has made and, after a cut, of what comes next."""
    layers, num_source_layers = record["layers"], record["source_layers"]
    cut = layers is not None and layers != list(range(num_source_layers))
    kept = f", {len(layers)} of {num_source_layers} layers: {','.join(map(str, layers))}" if cut else ""
    lines = [f"{options['source']} ({record['source_class']}) -> {options['output']} ({record['model_class']}{kept})"]
    if any(name.startswith(each.rstrip(".")) for name in record["left_out"] for each in TEXT_TOWER):
        lines.append("The source has a tower for images and one for texts: the image tower alone was converted.")
    for name in ("layers", "pool_layers"):
        given = options.get(name)
        if isinstance(given, str) and given.strip().isdecimal():
            first = f"; the first {int(given)} are first:{int(given)}" if int(given) else ""
            lines.append(f"--{name.replace('_', '-')} {given} is the one layer of that number, counted from 0{first}.")
    if options.get("pool_layers") == [] and record["start"] is None:
        lines.append("No layer pools: this is a stock model, which transformers loads by itself.")
    reference = "the source cut to these layers, not from the whole source" if cut else "the source"
    with_all = ", with all tokens" if record["start"] else ""
    lines.append(
        f"largest difference of any output, in {record['parity']['dtype']}{with_all}: "
        f"{record['parity']['max_abs_difference']}, from {reference}"
    )
    if record["start"]:
        strides = record["pool_config"]["pool_strides"]
        is_text = next(each for each in FAMILIES.values() if record["source_class"] in each.models).is_text
        form = "of {0} before layer {1}" if is_text else "of {0} x {0} before layer {1}"
        where = ", and ".join(form.format(stride, index) for index, stride in enumerate(strides) if stride > 1)
        tokens, mean = record["start"]["tokens"], record["start"]["mean"]
        lines.append(
            f"one token is kept {where}; until the model is trained, 1 - cosine to the source is {tokens:.3f} of the "
            f"tokens and {mean:.3f} of their mean, on random inputs (on real ones it is larger)"
        )
    return lines + (_what_comes_next(options, record["source_class"]) if cut or record["start"] else [])


def _what_comes_next(options: Mapping[str, Any], source_class: str) -> list[str]:
    """The commands that follow upon a cut of layers or tokens, whose model is worse than its source."""
    source, output = (shlex.quote(str(options[name])) for name in ("source", "output"))
    result = shlex.quote(str(options["output"]).rstrip("/") + "-distilled")
    family = next(each for each in FAMILIES.values() if source_class in each.models)
    commands = {**COMMANDS, "Model": "glue" if family.is_text else "imagenet"}
    if family.pretraining_model is not None:
        commands["ForPreTraining"] = commands["ForMaskedLM"]
    command = next((each for end, each in commands.items() if source_class.endswith(end)), None)
    if family.is_text:
        data, rates, pool_rate = "--train_file TEXTS.txt", "--learning_rate 2e-4", "1e-3"
    else:
        data, rates, pool_rate = "--data_dir IMAGES", "--learning_rate 1e-5", "3e-3"
    if options.get("pool_layers") != []:
        rates += f" --pool_learning_rate {pool_rate}"
    lines = [
        "The model is worse than the whole source until it has learned from it. Next, with texts or images of yours:",
        f"  cp-transformers distill --teacher {source} --model_name_or_path {output} \\",
        f"      {data} --do_train --do_eval {rates} --warmup_steps 0.1 \\",
        f"      --per_device_train_batch_size 32 --output_dir {result}",
    ]
    return lines + (
        [f"  cp-transformers {command} --model_name_or_path {result} ...    to fine-tune that"] * bool(command)
    )
