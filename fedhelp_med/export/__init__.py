"""A finished site's network, for use elsewhere: as a MONAI bundle, or in onnxruntime."""
