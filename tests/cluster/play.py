"""`make cluster`: put Nexus and the shop on the cluster that `bed.py up` started, and say how to use them."""

from __future__ import annotations

import sys

from nexus_testbed.cluster import Cluster
from shop import Shop


def main() -> int:
    shop = Shop(Cluster.attach("play"))
    sys.stdout.write("installing the chart and examples/shop …\n")
    shop.install()
    bed = f"{sys.executable} tests/cluster/bed.py"
    tour = (
        f".venv/bin/nexus tour --gateway {shop.gateway} --jaeger {shop.jaeger} --kubeconfig {shop.cluster.kubeconfig}"
    )
    sys.stdout.write(
        f"""
{shop.kubectl("get", "nexusservices")}
Gateway: {shop.gateway} (inside the cluster's network). Try:
  {bed} run curl -s {shop.gateway}/catalog/items
  {bed} kubectl get nexusservices,nexusplugins -n {shop.namespace}
  {bed} run {tour}
make cluster-down removes every trace.
"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
