"""MONAI transforms for medical images, imported as ``fedhelp_med.transforms``."""

from fedhelp_med.transforms.channels import ToChannels, ToChannelsd
from fedhelp_med.transforms.check import CheckStudyd, check_mask, check_place, mask_fits, place_fault
from fedhelp_med.transforms.dicom_pixels import ValueRules
from fedhelp_med.transforms.errors import ImageError
from fedhelp_med.transforms.grid import APART, Turn, corner_distance, known_place, turn_between, turned
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
from fedhelp_med.transforms.load import Layout, LoadStudy, LoadStudyd, image_layout, image_shape, read_image

__all__ = [
    "APART",
    "CT_WINDOWS",
    "CTWindow",
    "CTWindowd",
    "ChannelFirst",
    "ChannelFirstd",
    "CheckStudyd",
    "Finding",
    "ImageError",
    "Layout",
    "LoadStudy",
    "LoadStudyd",
    "MRZScore",
    "MRZScored",
    "Radiograph",
    "Radiographd",
    "ToChannels",
    "ToChannelsd",
    "Turn",
    "ValueRules",
    "check_mask",
    "check_place",
    "corner_distance",
    "identifying_elements",
    "image_layout",
    "image_shape",
    "known_place",
    "mask_fits",
    "place_fault",
    "read_image",
    "turn_between",
    "turned",
]
