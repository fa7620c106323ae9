"""What Consul's catalog should say of the cluster's endpoints. No I/O."""
