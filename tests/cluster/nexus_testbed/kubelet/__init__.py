"""The process kubelet: runs each pod of the one node as local processes in network and mount namespaces of its own."""
