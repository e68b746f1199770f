"""The federation in NVFlare 2.9: the same runner, sites and aggregation behind its controller and its Client API.

``job`` writes a job, ``controller`` drives our runner at NVFlare's server, ``script`` answers at a site, ``launch``
starts NVFlare's simulator or POC. Only what runs inside NVFlare imports it.
"""
