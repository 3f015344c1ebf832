"""Mixing inside a network: the maps after its stem or one of its stages instead of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from cutmix_zoo.checks import require
from cutmix_zoo.mixing.blend_plan import BlendPlan
from cutmix_zoo.mixing.compose import Chain, OneOf, check_method
from cutmix_zoo.mixing.joined_plans import JoinedPlan, SequencePlan
from cutmix_zoo.mixing.maps import as_map, bare_model, is_channels_last, module_of, stages_of
from cutmix_zoo.mixing.method import Context, MixMethod, as_tuple
from cutmix_zoo.mixing.pairing import numpy_generator, torch_generator
from cutmix_zoo.mixing.plan import IdentityPlan, ImagesStayPlan, MixPlan

MapSizes = Sequence[tuple[int, int] | None]
"""Height and width of the maps at depth 0, 1, ...; None where a map is a row of tokens."""

_DRAW_WITH = "draw with map_sizes=map_sizes(model, height, width)"


@dataclass(frozen=True)
class FeatureMix:
    """Mix the maps inside a network, at a depth that is drawn for each batch.

    Depth 0 is the image, 1 is what the stem gives, 2 and more what the stages give (:func:`feature_modules`). The inner
    method draws for maps of the size they have there, so its shares are those of the map. The plan is
    carried out by :func:`mix_features`, around the forward pass.

    Args:
        mix: the method; ``FeatureMix(Mixup())`` is Manifold Mixup, ``FeatureMix(CutMix())`` is Feature CutMix. It draws
            one plan a batch: a method that looks at images sees none beyond depth 0.
        depths: where to mix; each is drawn equally often. Tokens have no plane: only methods that blend, such as
            mixup, can mix them.

    Raises:
        ValueError: if ``depths`` is empty or not whole numbers from 0, ``mix`` holds another FeatureMix, or beyond
            depth 0 a method with a fill other than 0 or one that looks at images; from
            ``draw``, if ``map_sizes`` is missing, belongs to another image size or has too few depths, or the method
            cannot mix tokens.
        TypeError: if ``mix`` is no mixing method.

    **Source**: Verma et al., Manifold Mixup (ICML 2019); its code draws from the image and the first two stages, here
    ``depths=(0, 2, 3)``. Yun et al., CutMix (ICCV 2019), Table 3 (Feature CutMix, "as Manifold Mixup
    does") and Figure 3, whose positions 0 to 4 are our depths; neither says which were drawn from.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> mix = FeatureMix(CutMix(), depths=[2])
        >>> plan = mix.draw(8, 32, 32, generator=torch.Generator().manual_seed(0), map_sizes=[(32, 32)] * 3)
        >>> plan.depth, plan.label_shares.shape
        (2, torch.Size([8, 2]))
    """

    mix: MixMethod
    depths: Sequence[int] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        check_method("mix", self.mix)
        require(
            not any(isinstance(mix, FeatureMix) for mix in nested(self.mix)), "mix must not hold another FeatureMix"
        )
        depths = as_tuple(self.depths)
        whole = all(isinstance(depth, int) and not isinstance(depth, bool) and depth >= 0 for depth in depths)
        require(len(depths) > 0 and whole, f"depths must be whole numbers from 0, at least one, got {depths}")
        object.__setattr__(self, "depths", depths)
        if max(depths) > 0:
            for mix in (self.mix, *nested(self.mix)):
                require(
                    not any(getattr(mix, "fill", None) or ()),
                    f"mix must not fill maps with the grey level of {mix}: use a fill of 0, or mix at depth 0",
                )
                require(
                    not getattr(mix, "looks_at_images", False),
                    f"mix must not look at images beyond depth 0: {mix} does",
                )

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw where and how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        rng = numpy_generator(generator)
        depth = self.depths[int(rng.integers(len(self.depths)))]
        inner_generator = torch_generator(rng)
        sizes = self._sizes(height, width, context.get("map_sizes"))
        if depth == 0:
            return self.mix.draw(batch_size, height, width, generator=inner_generator, **context)
        # the images are not what is mixed there
        progress: Context = {"progress": context["progress"]} if "progress" in context else {}
        inner = self.mix.draw(batch_size, *(sizes[depth] or (1, 1)), generator=inner_generator, **progress)
        if sizes[depth] is None and not _is_blend(inner):
            raise ValueError(
                f"the map at depth {depth} is a row of tokens, which {self.mix} cannot mix: "
                "use a method that blends, such as Mixup(), or other depths"
            )
        if isinstance(inner, IdentityPlan):
            return IdentityPlan(batch_size, height, width)
        return FeaturePlan(batch_size, height, width, inner, depth)

    def _sizes(self, height: int, width: int, sizes: MapSizes | None) -> MapSizes:
        """Check what is known of the maps, whichever depth was drawn."""
        deepest = max(self.depths)
        if deepest == 0:
            return [(height, width)]
        require(sizes is not None, f"FeatureMix needs the sizes of the maps inside the network: {_DRAW_WITH}")
        assert sizes is not None
        require(len(sizes) > deepest, f"depths must be below {len(sizes)} for this network, got {self.depths}")
        require(
            tuple(sizes[0] or ()) == (height, width),
            f"map_sizes is for images of {sizes[0]} (height, width), but these have {(height, width)}: {_DRAW_WITH}",
        )
        return sizes


@dataclass(frozen=True, eq=False)
class FeaturePlan(ImagesStayPlan):
    """Maps inside a network are mixed; images stay as they are, labels are mixed as the maps.

    :func:`mix_features` carries it out. Shares and sources are those of the inner plan, so ``pixel_shares`` counts the
    places of the map.

    Args:
        batch_size: number of images, B; at least 1.
        height: height of the images in pixels.
        width: width of the images in pixels.
        inner: how the maps are mixed, drawn for their height and width; for tokens a blend of size 1 x 1.
        depth: where, from 1; see :func:`feature_modules`.

    Raises:
        ValueError: if ``inner`` is for another batch size or is a plan for features itself, or ``depth`` is below 1.

    Example:
        >>> inner = BlendPlan(2, 4, 4, donor=torch.tensor([1, 0]), own_lam=torch.tensor([0.75, 0.5]))
        >>> FeaturePlan(2, 8, 8, inner, depth=2).mix_targets(torch.tensor([0, 1]), num_classes=2)
        tensor([[0.7500, 0.2500],
                [0.5000, 0.5000]])
    """

    inner: MixPlan
    depth: int

    def __post_init__(self) -> None:
        super().__post_init__()
        batch_size = self.inner.batch_size
        require(batch_size == self.batch_size, f"inner must be for {self.batch_size} images, got {batch_size}")
        require(feature_part(self.inner) is None, "inner must mix maps as if they were images, not features of its own")
        require(self.depth >= 1, f"depth must be at least 1, got {self.depth}: 0 is the image, whose plan is the inner")

    @property
    def sources(self) -> Tensor:  # noqa: D102
        return self.inner.sources

    @property
    def pixel_shares(self) -> Tensor:  # noqa: D102
        return self.inner.pixel_shares

    @property
    def label_shares(self) -> Tensor:  # noqa: D102
        return self.inner.label_shares

    def apply_maps(self, maps: Tensor, *, channels_last: bool = False) -> Tensor:
        """Mix the output of the module at this depth.

        Args:
            maps: (B, C, h, w), or (B, h, w, C) if ``channels_last``, or tokens (B, N, C); floating point. Not modified.
            channels_last: how to read maps whose three sizes are equal; others show it by themselves.

        Returns:
            The mixed maps in the same shape, dtype, device and memory format.

        Raises:
            ValueError: if their batch size, height and width are not those of the inner plan.
        """
        plane = (self.inner.height, self.inner.width)
        if maps.ndim == 3 and len(maps) == self.batch_size and plane == (1, 1):
            return self.inner.apply(maps.reshape(self.batch_size, -1, 1, 1)).reshape(maps.shape)
        first, last = (maps.ndim == 4 and tuple(shape) == plane for shape in (maps.shape[2:], maps.shape[1:3]))
        if len(maps) != self.batch_size or not (first or last):
            raise ValueError(
                f"the plan was drawn for {self.batch_size} maps of {plane[0]} x {plane[1]} (height x width) at depth "
                f"{self.depth}, which gives {tuple(maps.shape)}: {_DRAW_WITH}"
            )
        if first and not (last and channels_last):
            return self.inner.apply(maps)
        return self.inner.apply(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()

    def _mask_plan(self, _: int) -> MixPlan:
        raise ValueError(
            "this plan mixes the maps inside the network, so the masks of its images have nothing to be mixed by: "
            "draw with depths=(0,), or use the method without FeatureMix"
        )


def nested(mix: MixMethod) -> Iterator[MixMethod]:
    """Yield a method and the methods inside it."""
    yield mix
    for inner in inner_methods(mix):
        yield from nested(inner)


def inner_methods(mix: MixMethod) -> list[MixMethod]:
    """List the methods that are settings of a method."""
    settings = getattr(mix, "__dict__", {}).values()
    values = [item for value in settings for item in (value if isinstance(value, tuple) else (value,))]
    return [value for value in values if callable(getattr(value, "draw", None))]


def deepest(mix: MixMethod) -> int:
    """Return the largest depth at which a method may mix: 0 where it mixes nothing but images."""
    return max((max(inner.depths) for inner in nested(mix) if isinstance(inner, FeatureMix)), default=0)


def needs_network(mix: MixMethod) -> bool:
    """Tell whether a method may mix the maps inside a network, which a collate or a transform cannot.

    Example:
        >>> from cutmix_zoo.mixing import Chain, Cutout, Mixup
        >>> needs_network(Mixup()), needs_network(Chain([Cutout(), FeatureMix(Mixup())]))
        (False, True)
    """
    return deepest(mix) > 0


def mixes_maps_last(mix: MixMethod) -> bool:
    """Tell whether a method mixes maps after all images, and for a whole batch, whatever it draws.

    Example:
        >>> from cutmix_zoo.mixing import Chain, Cutout, Mixup
        >>> maps = FeatureMix(Mixup())
        >>> mixes_maps_last(Chain([Cutout(), maps])), mixes_maps_last(Chain([maps, Cutout()]))
        (True, False)
    """
    inner = inner_methods(mix)
    if isinstance(mix, Chain):
        images_only = inner[:-1]
    else:
        images_only = inner if isinstance(mix, OneOf) and mix.per != "batch" else []
    return not any(map(needs_network, images_only)) and all(map(mixes_maps_last, inner))


def feature_part(plan: MixPlan) -> FeaturePlan | None:
    """Find what of a plan is to be done inside the network.

    Raises:
        ValueError: if it is not the whole plan, or its last step.
    """
    if isinstance(plan, FeaturePlan):
        return plan
    parts = [feature_part(part) for part in plan.parts] if isinstance(plan, JoinedPlan) else []
    if all(part is None for part in parts):
        return None
    if isinstance(plan, SequencePlan) and all(part is None for part in parts[:-1]):
        return parts[-1]
    raise ValueError(
        f"maps are mixed after all images and for a whole batch, but here they are in the midst of a "
        f"{type(plan).__name__}: put FeatureMix last in a Chain, and into OneOf with per='batch'"
    )


def _is_blend(plan: MixPlan) -> bool:
    if isinstance(plan, JoinedPlan):
        return all(_is_blend(part) for part in plan.parts)
    return isinstance(plan, BlendPlan | IdentityPlan)


@contextmanager
def mix_features(model: nn.Module, plan: MixPlan) -> Iterator[None]:
    """Mix the maps of one forward pass as a plan says; the images have been mixed by ``plan.apply``.

    Nothing happens for plans that mix only images, so a loop may wrap every step. A model with gradient
    checkpointing computes its maps a second time in the backward pass, which then belongs inside as well.

    Args:
        model: see :func:`feature_modules`; called once inside the ``with`` block.
        plan: what a method drew for this batch.

    Raises:
        ValueError: if the model is compiled, which hides the hook that mixes; the maps are not named, not computed, or
            not of the size that the plan was drawn for; the model is called twice; the backward pass of a model
            with gradient checkpointing comes too late; or the plan mixes maps for a part of the batch or before images.

    Example:
        >>> import timm
        >>> from cutmix_zoo.mixing import Mixup, map_sizes
        >>> model = timm.create_model("cifar_resnet8")
        >>> images, sizes = torch.rand(4, 3, 32, 32), map_sizes(model, 32, 32)
        >>> plan = FeatureMix(Mixup()).draw(4, 32, 32, generator=torch.Generator().manual_seed(0), map_sizes=sizes)
        >>> with mix_features(model, plan):
        ...     logits = model(plan.apply(images))
    """
    part = feature_part(plan)
    if part is None:
        yield
        return
    model = bare_model(model)
    stages = stages_of(model)
    require(part.depth <= len(stages), f"the plan mixes at depth {part.depth}, but the model has {len(stages)}")
    name = stages[part.depth - 1].name
    hook = _Hook(part, name, channels_last=is_channels_last(model), recomputes=_recomputes(model))
    handle = module_of(model, name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    hook.check_done()


class _Hook:
    """Applies a plan to the output of a module: once, and again only where the backward pass computes it again."""

    def __init__(self, plan: FeaturePlan, name: str, *, channels_last: bool, recomputes: bool) -> None:
        self.plan, self.name, self.channels_last = plan, name, channels_last
        self.forwards, self.waits_for_backward = 0, recomputes

    def __call__(self, _: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if _in_backward():
            self._reached()
        else:
            self.forwards += 1
            require(self.forwards == 1, f"a plan is for one forward pass, but {self.name} ran twice: draw another one")
        maps = as_map(output, self.name)
        mixed = self.plan.apply_maps(maps, channels_last=self.channels_last)
        if self.waits_for_backward and mixed.requires_grad:
            mixed.register_hook(self._reached)
        return mixed

    def _reached(self, _: Tensor | None = None) -> None:
        self.waits_for_backward = False

    def check_done(self) -> None:
        require(
            self.forwards == 1,
            f"nothing was mixed: {self.name} did not run inside mix_features; call the model in the with block",
        )
        require(
            not self.waits_for_backward,
            "the backward pass of a model with gradient checkpointing computes the maps again and must mix them again: "
            "call backward inside mix_features too",
        )


def _in_backward() -> bool:
    """Tell whether the autograd engine is running, as torch's own checkpointing asks."""
    return torch._C._current_graph_task_id() != -1


def _recomputes(model: nn.Module) -> bool:
    """Tell whether the backward pass will compute a part of the network again."""
    names = ("grad_checkpointing", "gradient_checkpointing")
    on = any(vars(module).get(name) is True for module in model.modules() for name in names)
    return on and torch.is_grad_enabled()
