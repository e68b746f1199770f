"""A site's data: datalists, descriptions, patient-level splits, and the demo's sites."""

from fedhelp_med.data.bloodcells import make_blood_cell_sites
from fedhelp_med.data.datalist import Datalist, read_datalist, write_datalist
from fedhelp_med.data.demo import DemoData
from fedhelp_med.data.describe import ImageDescription, describe_image
from fedhelp_med.data.icbm import make_icbm_sites
from fedhelp_med.data.medmnist import make_medmnist_sites
from fedhelp_med.data.splits import split_by_patient
from fedhelp_med.data.tissue import make_tissue_sites

__all__ = [
    "Datalist",
    "DemoData",
    "ImageDescription",
    "describe_image",
    "make_blood_cell_sites",
    "make_icbm_sites",
    "make_medmnist_sites",
    "make_tissue_sites",
    "read_datalist",
    "split_by_patient",
    "write_datalist",
]
