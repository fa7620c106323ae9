"""What the control plane costs: translation, the operator's memory, and the time from `kubectl apply` to a served request."""
