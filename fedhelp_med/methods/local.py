"""Local-only: every site alone, with the network of its size. The reference for every gain."""

from fedhelp_med.methods.base import Method, Role, RolePlan


class Local(Method):
    """Minimises ``CE(f(x), y)`` on the site's own data: the small network at small sites, the large one at large ones.

    Nothing is exchanged; a site gets the epochs that a federation of the same file would give it.
    """

    name = "local"
    exchange = "nothing"
    keeps_optimizer = True

    def plan(self, role: Role) -> RolePlan:
        """Return the plan of the one network that the site trains."""
        overlay = {"network_def": "@large_network_def", "head": "@large_head"} if role == "large" else {}
        return RolePlan(trained="local", overlay=overlay, deployed=("local",))
