"""MONAI transforms for medical images, imported as ``fedhelp_med.transforms``."""

from fedhelp_med.transforms.channels import ToChannels, ToChannelsd
from fedhelp_med.transforms.layout import ChannelFirst, ChannelFirstd

__all__ = ["ChannelFirst", "ChannelFirstd", "ToChannels", "ToChannelsd"]
