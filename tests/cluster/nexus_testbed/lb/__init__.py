"""Services made reachable without a kernel proxy: load balancer addresses, ClusterIPs, node ports, and cluster DNS."""
