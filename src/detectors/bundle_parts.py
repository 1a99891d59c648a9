"""The parts of a MONAI bundle's configuration as values. Nothing is evaluated."""

import ast
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ..errors import BadCheckpoint

__all__ = ["HARMLESS", "KNOWN", "METHODS", "ON_DEVICE", "Parts", "texts"]

REFERENCE = re.compile(r"@([A-Za-z_]\w*)")
ON_DEVICE = re.compile(r"\$@(\w+)\.to\(@device\)")
MOST_EXPRESSION = 1000  # characters
MOST_REFERENCES = 8  # from one part to the next
DETECTION = "monai.apps.detection"
# Components and methods: their full name's module, and the names of their arguments in order.
KNOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "RetinaNet": (
        f"{DETECTION}.networks.retinanet_network",
        ("spatial_dims", "num_classes", "num_anchors", "feature_extractor", "size_divisible", "use_list_output"),
    ),
    "resnet_fpn_feature_extractor": (
        f"{DETECTION}.networks.retinanet_network",
        ("backbone", "spatial_dims", "pretrained_backbone", "returned_layers", "trainable_backbone_layers"),
    ),
    "RetinaNetDetector": (
        f"{DETECTION}.networks.retinanet_detector",
        ("network", "anchor_generator", "box_overlap_metric", "spatial_dims", "num_classes", "size_divisible"),
    ),
    "AnchorGeneratorWithAnchorShape": (
        f"{DETECTION}.utils.anchor_utils",
        ("feature_map_scales", "base_anchor_shapes", "indexing"),
    ),
    **{f"resnet{depth}": ("monai.networks.nets.resnet", ()) for depth in (10, 18, 34, 50, 101, 152, 200)},
}
METHODS: dict[str, tuple[str, ...]] = {
    "set_target_keys": ("box_key", "label_key"),
    "set_box_selector_parameters": (
        "score_thresh",
        "topk_candidates_per_level",
        "nms_thresh",
        "detections_per_img",
        "apply_sigmoid",
    ),
    "set_sliding_window_inferer": ("roi_size", "sw_batch_size", "overlap", "mode", "sigma_scale"),
}
# Arguments that change no result: where and how much at once.
HARMLESS = {"device", "sw_device", "sw_batch_size", "progress", "cache_roi_weight_map", "debug", "keys", "_target_"}


class Parts:
    """A configuration whose parts refer to each other. `where` is its name, for messages."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def component(self, part: object, kind: str) -> dict[str, Any]:
        """The arguments of a component, which must be of this kind."""
        name, arguments = self.named(part)
        if name != kind:
            self.refuse(f"{name!r} is where {kind} must be")
        return arguments

    def named(self, part: object) -> tuple[str, dict[str, Any]]:
        """A component's name and arguments, wherever the references lead."""
        for _ in range(MOST_REFERENCES):
            if isinstance(part, dict):
                name = self.known(str(part.get("_target_")))
                return name, {key: value for key, value in part.items() if key not in HARMLESS}
            if not isinstance(part, str):
                break
            if match := REFERENCE.fullmatch(part) or ON_DEVICE.fullmatch(part):
                part = self.data.get(match[1])
            elif part.startswith("$"):
                return self.call(part)
            else:
                break
        return self.refuse(f"{str(part)[:80]!r} is no component")

    def value(self, value: object) -> Any:  # noqa: ANN401 - a plain value
        """A plain value, wherever the references lead."""
        for _ in range(MOST_REFERENCES):
            if not (isinstance(value, str) and value.startswith("@")):
                break
            match = REFERENCE.fullmatch(value)
            if match is None or match[1] not in self.data:
                self.refuse(f"{value[:80]!r} refers to nothing plain")
            value = self.data[match[1]]
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, dict) or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
            self.refuse(f"{str(value)[:80]!r} is no plain value, and PIVOT evaluates nothing")
        return value

    def call(self, text: str) -> tuple[str, dict[str, Any]]:
        """The name and the arguments of an expression that is one call, by its syntax tree: nothing is evaluated."""
        try:
            if len(text) > MOST_EXPRESSION:
                raise ValueError  # noqa: TRY301 - as all that is no call
            tree = ast.parse(REFERENCE.sub(r"REF_\1", text.removeprefix("$").strip()), mode="eval").body
            if not isinstance(tree, ast.Call):
                raise TypeError  # noqa: TRY301
            full = ast.unparse(tree.func)
            given = [_literal(one) for one in tree.args]
            named = {str(one.arg): _literal(one.value) for one in tree.keywords if one.arg}
            if len(named) < len(tree.keywords):
                raise ValueError  # noqa: TRY301
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            self.refuse(f"{text[:80]!r} is no call with plain arguments, and PIVOT evaluates nothing")
        if full.startswith("REF_"):
            name, order = full.replace("REF_", "@", 1), METHODS.get(full.rpartition(".")[2], ())
        else:
            name = self.known(full)
            order = KNOWN[name][1]
        if len(given) > len(order) or set(order[: len(given)]) & set(named):
            self.refuse(f"{text[:80]!r} has arguments that PIVOT does not know")
        arguments = {**dict(zip(order, given, strict=False)), **named}
        if name == "resnet_fpn_feature_extractor":
            arguments.pop("trainable_backbone_layers", None)  # of training
        return name, arguments

    def known(self, full: str) -> str:
        """A component's bare name, if it is one of those that PIVOT knows."""
        module, _, name = full.rpartition(".")
        if name not in KNOWN or module not in ("", KNOWN[name][0], "monai.networks.nets", f"{DETECTION}.networks"):
            self.refuse(f"{full[:80]!r} is no component that PIVOT knows ({', '.join(KNOWN)})")
        return name

    def only(self, arguments: dict[str, Any], known: set[str]) -> None:
        """Refuse a component that has other arguments than these."""
        if unknown := sorted(arguments.keys() - known - HARMLESS):
            self.refuse(f"{unknown[0]!r} is an argument that PIVOT does not know (known: {', '.join(sorted(known))})")

    def refuse(self, what: str) -> NoReturn:
        """Raise `BadCheckpoint`."""
        msg = f"{self.where} is refused: {what}"
        raise BadCheckpoint(msg)


def texts(part: object, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """All texts in the configuration, with their keys."""
    if isinstance(part, dict):
        for inner, value in part.items():
            yield inner, ""
            yield from texts(value, inner, depth + 1)
    elif isinstance(part, list):
        for value in part:
            yield from texts(value, key, depth + 1)
    elif isinstance(part, str):
        yield key, part


def _literal(node: ast.expr) -> Any:  # noqa: ANN401 - a literal, or a reference as in the file
    if isinstance(node, ast.Name) and node.id.startswith("REF_"):
        return node.id.replace("REF_", "@", 1)
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(one) for one in node.elts]
    return ast.literal_eval(node)
