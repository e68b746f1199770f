"""MONAI transforms for medical images, imported as ``fedhelp_med.transforms``."""

from fedhelp_med.transforms.channels import ToChannels, ToChannelsd
from fedhelp_med.transforms.check import CheckStudyd, check_mask, mask_fits
from fedhelp_med.transforms.dicom_pixels import ValueRules
from fedhelp_med.transforms.errors import ImageError
from fedhelp_med.transforms.identity import Finding, identifying_elements
from fedhelp_med.transforms.intensity import (
    CT_WINDOWS,
    CTWindow,
    CTWindowd,
    MRZScore,
    MRZScored,
    Radiograph,
    Radiographd,
)
from fedhelp_med.transforms.layout import ChannelFirst, ChannelFirstd
from fedhelp_med.transforms.load import LoadStudy, LoadStudyd, image_shape, read_image

__all__ = [
    "CT_WINDOWS",
    "CTWindow",
    "CTWindowd",
    "ChannelFirst",
    "ChannelFirstd",
    "CheckStudyd",
    "Finding",
    "ImageError",
    "LoadStudy",
    "LoadStudyd",
    "MRZScore",
    "MRZScored",
    "Radiograph",
    "Radiographd",
    "ToChannels",
    "ToChannelsd",
    "ValueRules",
    "check_mask",
    "identifying_elements",
    "image_shape",
    "mask_fits",
    "read_image",
]
