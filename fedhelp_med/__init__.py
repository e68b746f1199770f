"""FedHelp for medical imaging: federated learning in which small and large sites teach each other.

The rooms of the package, bottom up (an import goes downward only): ``common``, ``losses``, ``metrics``, ``networks``,
``transforms``, ``data``, ``foundation``, ``engines``, ``handlers``, ``methods``, ``federation``, ``export``,
``report``, ``prediction`` and ``cli``.

Nothing is imported here, so that ``fedhelp --help`` does not pay for torch.
"""

__version__ = "0.1.0.dev0"
