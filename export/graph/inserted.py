"""Check the places of inserted sites in the finished graph.

In: the sites with the nodes that they feed. Out: nothing, or `OptionRefused`.
"""

from __future__ import annotations

from collections.abc import Sequence

from export.contract.metadata import INSERTED, Site
from export.errors import OptionRefused


def check_inserted(sites: Sequence[Site], origin: str) -> None:
    """Refuse an inserted site if another site is directly before or after it.

    Args:
        sites: the sites of a graph, with `feeds`.
        origin: name of the model, for messages.

    Raises:
        OptionRefused: an inserted site feeds another site, or another site feeds it.
    """
    by_name = {site.name: site for site in sites}
    for site in sites:
        for other in (by_name[name] for name in site.feeds if name in by_name):
            if INSERTED in (site.origin, other.origin):
                inserted, present = (site, other) if site.origin == INSERTED else (other, site)
                raise OptionRefused(
                    f"--insert-dropout would insert {inserted.name} next to the dropout {present.name} of {origin}, on "
                    "the same values.",
                    wanted="a layer whose input has no dropout yet",
                    next_step="name another layer, or leave out --insert-dropout and change the rate of the dropout "
                    f"of the model with --rate '{present.name}=RATE'"
                    if present.origin != INSERTED
                    else "name only one of the two layers",
                )
