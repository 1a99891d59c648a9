"""A MONAI bundle of a detection network: `configs/inference.json` and `models/model.pt`.

The configuration is a program: `$` begins Python, `@` refers to another part. PIVOT runs none of it. It reads the parts
that results depend on as values: components by their names (`KNOWN`), and calls whose arguments are literals or plain
references. If such a part holds anything else, the bundle is refused. All other parts are never looked at, but for one
thing: no expression may touch the network or the detector in a way that PIVOT does not know.
"""

import re
from collections.abc import Iterator
from typing import Any

from .bundle_parts import HARMLESS, KNOWN, METHODS, ON_DEVICE, Parts, texts
from .networks import build
from .recipe import BoxOutput, Foreign, Grid, Windows, checked, foreign
from .source import Source

__all__ = ["is_bundle", "read_bundle"]

CONFIGS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))
WEIGHTS = ("models/model.pt", "models/model.pth", "models/model.safetensors")
TOUCHES = re.compile(r"@(network|network_def|detector|anchor_generator|feature_extractor|backbone|preprocessing)\b")
LOADED = re.compile(r"\$@(bundle_root \+ '/models|ckpt_dir \+ ')/(model\.(?:pt|pth|safetensors))'")
# Transforms, each with the arguments that may be given beside those in `HARMLESS`, and their only value (None: any).
BEFORE: dict[str, dict[str, Any]] = {
    "LoadImaged": {"reader": None, "affine_lps_to_ras": None, "meta_key_postfix": None, "_disabled_": None},
    "EnsureChannelFirstd": {"meta_key_postfix": None},
    "Orientationd": {"axcodes": None},
    "Spacingd": {"pixdim": None, "mode": "bilinear", "padding_mode": "border", "diagonal": False, "_disabled_": None},
    "ScaleIntensityRanged": {"a_min": None, "a_max": None, "b_min": None, "b_max": None, "clip": True},
    "EnsureTyped": {"dtype": None},
    "DeleteItemsd": {},
}
AFTER = ("ClipBoxToImaged", "AffineBoxToWorldCoordinated", "ConvertBoxModed", "DeleteItemsd")


def is_bundle(source: Source) -> bool:
    """Whether there is a configuration of inference."""
    return source.first(*CONFIGS) is not None


def read_bundle(source: Source) -> Foreign:
    """The detector. Of the bundle only its weights, configuration and metadata are read.

    Raises:
        BadCheckpoint: a part that results depend on is missing, unknown, or no plain value; or the weights do not fit.
    """
    name = source.one_of(*CONFIGS)
    where = f"{name} of {source.path}"
    config = _Config(source.data(name), where)
    metadata = source.data("configs/metadata.json") if source.has("configs/metadata.json") else {}
    weights = source.one_of(*WEIGHTS)
    config.check_weights(weights)
    architecture, detector = config.network()
    grid = config.grid()
    windows, chosen = config.settings()
    output = checked(BoxOutput, {**detector, **chosen}, where)
    network = build("RetinaNet", architecture, source.weights(weights), where)
    output.check_fits(network, where)
    told = {key: value for key in ("name", "version", "license") if isinstance(value := metadata.get(key), str)}
    return foreign(
        source,
        network,
        ("RetinaNet", architecture),
        (grid, windows, output),
        name=told.get("name"),
        version=told.get("version", "1"),
        licence=told.get("license"),
    )


class _Config(Parts):
    """The configuration, and the parts of it that results depend on, as values."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        super().__init__(data, where)
        self.calls: dict[str, dict[str, Any]] = {}  # of the detector's methods: their arguments
        for key, text in texts(data):
            if "#" in key or "::" in key:
                self.refuse(f"the key {key!r} changes another part")
            if text.startswith("$") and TOUCHES.search(text):
                self._check_touch(text)

    def network(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the `RetinaNet`, and its anchors."""
        detector = self.component(self.data.get("detector"), "RetinaNetDetector")
        self.only(detector, {"network", "anchor_generator", "spatial_dims", "num_classes", "size_divisible"})
        network = self.component(detector.get("network"), "RetinaNet")
        if self.value(network.pop("use_list_output", False)) is not False:
            self.refuse("use_list_output must be false")
        extractor = self.component(network.pop("feature_extractor", None), "resnet_fpn_feature_extractor")
        backbone = extractor.get("backbone")
        depth, arguments = self.named(backbone)
        if not depth.startswith("resnet") or depth not in KNOWN:
            self.refuse(f"the backbone is {depth!r}, no ResNet of MONAI")
        self.only(extractor, {"backbone", "spatial_dims", "pretrained_backbone", "returned_layers"})
        if self.value(extractor.get("pretrained_backbone", False)) is not False:
            self.refuse("pretrained_backbone must be false")
        arguments.pop("pretrained", None)
        arguments.pop("progress", None)
        layers = {"returned_layers": self.value(extractor.get("returned_layers", [1, 2, 3]))}
        plain = {key: self.value(value) for key, value in {**network, **arguments}.items()}
        anchors = self.component(detector.get("anchor_generator"), "AnchorGeneratorWithAnchorShape")
        self.only(anchors, {"feature_map_scales", "base_anchor_shapes"})
        found = {
            "anchors": self.value(anchors.get("base_anchor_shapes")),
            "scales": self.value(anchors.get("feature_map_scales", [1, 2, 4])),
        }
        return {"backbone": depth, **plain, **layers}, found

    def grid(self) -> Grid:
        """The grid of the transforms before the network."""
        found: dict[str, dict[str, Any]] = {}
        for kind, arguments in self._transforms("preprocessing"):
            if kind not in BEFORE:
                self.refuse(f"preprocessing holds {kind}, which PIVOT does not know")
            allowed = BEFORE[kind]
            self.only(arguments, set(allowed))
            for key, value in allowed.items():
                if value is not None and key in arguments and self.value(arguments[key]) != value:
                    self.refuse(f"{kind}.{key} must be {value!r}")
            found[kind] = arguments
        order = ("Orientationd", "Spacingd", "ScaleIntensityRanged")
        if [kind for kind in found if kind in order] != list(order):
            self.refuse(f"preprocessing must hold {', '.join(order)}, in this order")
        if "clip" not in found["ScaleIntensityRanged"]:
            self.refuse("ScaleIntensityRanged.clip must be true")
        scale = {key: self.value(value) for key, value in found["ScaleIntensityRanged"].items() if key[1] == "_"}
        values = {
            "axes": self.value(found["Orientationd"].get("axcodes")),
            "spacing": self.value(found["Spacingd"].get("pixdim")),
            "clip_range": [scale.get("a_min"), scale.get("a_max")],
            "output_range": [scale.get("b_min", 0.0), scale.get("b_max", 1.0)],
        }
        for kind, _ in self._transforms("postprocessing") if "postprocessing" in self.data else ():
            if kind not in AFTER:
                self.refuse(f"postprocessing holds {kind}, which PIVOT does not know")
        return checked(Grid, values, f"{self.where}, preprocessing")

    def settings(self) -> tuple[Windows, dict[str, Any]]:
        """The windows, and which boxes are kept."""
        for method in ("set_box_selector_parameters", "set_sliding_window_inferer"):
            if method not in self.calls:
                self.refuse(f"detector.{method} is not called")
        chosen, windows = self.calls["set_box_selector_parameters"], self.calls["set_sliding_window_inferer"]
        if chosen.pop("apply_sigmoid", True) is not True:
            self.refuse("apply_sigmoid must be true")
        names = {"roi_size": "patch_size", "overlap": "overlap", "mode": "blending", "sigma_scale": "sigma"}
        self.only(windows, set(names))
        defaults = {"overlap": 0.5, "mode": "constant"}  # MONAI's
        values = {names[key]: value for key, value in {**defaults, **windows}.items() if key in names}
        return checked(Windows, values, f"{self.where}, set_sliding_window_inferer"), chosen

    def check_weights(self, name: str) -> None:
        """Refuse a configuration that loads other weights than those in `name`."""
        handlers = self.data.get("handlers", [])
        for handler in handlers if isinstance(handlers, list) else []:
            if isinstance(handler, dict) and str(handler.get("_target_")).endswith("CheckpointLoader"):
                match = LOADED.fullmatch(str(handler.get("load_path")))
                if match is None or f"models/{match[2]}" != name:
                    self.refuse(f"it loads {str(handler.get('load_path'))[:80]!r}, not {name} of the bundle")

    def _check_touch(self, text: str) -> None:
        """Take the expression's call of a method of the detector; refuse what else touches the network."""
        if ON_DEVICE.fullmatch(text):
            return
        name, arguments = self.call(text)
        if name in KNOWN:
            return
        owner, _, method = name.rpartition(".")
        if owner != "@detector" or method not in METHODS:
            self.refuse(f"{text[:80]!r} is no call that PIVOT knows")
        if method in self.calls:
            self.refuse(f"detector.{method} is called twice")
        self.calls[method] = {key: self.value(value) for key, value in arguments.items() if key not in HARMLESS}

    def _transforms(self, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        part = self.data.get(key)
        listed = part.get("transforms") if isinstance(part, dict) and part.get("_target_") == "Compose" else None
        if not (isinstance(listed, list) and all(isinstance(one, dict) for one in listed)):
            self.refuse(f"{key} is no Compose of transforms")
        for one in listed:
            yield str(one.get("_target_")).removeprefix("monai.transforms."), one
