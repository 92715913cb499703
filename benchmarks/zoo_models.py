"""timm's models of the zoo: one or two of each family, small, on small pictures, random weights."""

from typing import Any, NamedTuple

import torch
from torch import nn

from optimize.models.sources import timm

CLASSES = 10


class Named(NamedTuple):
    """A model by its timm name: the side of its pictures, and whether it must be told."""

    side: int
    told: bool


_ANY = """resnet18 seresnet18 skresnet18 resnetblur18 resnetv2_18 res2net50_14w_8s resnest14d
regnety_002 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_035 efficientnet_lite0
efficientnet_b0 mixnet_s lcnet_050 hardcorenas_a ghostnet_050 repghostnet_050 densenet121
dla46_c dpn48b hrnet_w18_small ese_vovnet19b_slim cs3darknet_s rexnet_100 convnext_atto
convnextv2_atto inception_next_atto mambaout_femto fasternet_t0 starnet_s050 shvit_s1 lowformer_b0
edgenext_xx_small efficientvit_b0 fastvit_t8 poolformer_s12 pvt_v2_b0 tiny_vit_5m_224 test_nfnet
iformer_t efficientvim_m1 hgnetv2_b0 cpubone_nano crossvit_tiny_240 nf_resnet26"""
_TOLD = """resnext26ts repvgg_a0 mobileone_s0 repvit_m0_9 swiftformer_xs mobilevit_xxs
mobilevitv2_050 efficientvit_m0 efficientformerv2_s0 levit_128s cait_xxs24_224 coat_lite_tiny
convit_tiny deit_tiny_distilled_patch16_224 vit_tiny_patch16_224 vit_relpos_small_patch16_224
eva02_tiny_patch14_224 gcvit_xxtiny maxvit_pico_rw_256 coatnet_pico_rw_224 mixer_s32_224
gmlp_s16_224 resmlp_12_224 pit_xs_224 sequencer2d_s swin_tiny_patch4_window7_224
swinv2_cr_tiny_224 swinv2_tiny_window8_256 visformer_tiny xcit_nano_12_p16_224 test_vit3
test_byobnet botnet26t_256 lambda_resnet26t vit_small_patch16_dinov3 nest_tiny"""

MODELS: dict[str, Named] = {
    **{name: Named(64, False) for name in _ANY.split()},
    **{name: Named(64, True) for name in _TOLD.split()},
    "inception_v3": Named(96, False),
}
"""By timm's names."""


def build(name: str) -> nn.Module:
    """uint8 `[N, 3, side, side]` to `[N, 10]`, its batch statistics drawn with a fixed seed."""
    torch.manual_seed(0)
    side, told = MODELS[name]
    options: dict[str, Any] = {"img_size": side} if told else {}
    model = timm.build(name, CLASSES, **options)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    return model.eval()
