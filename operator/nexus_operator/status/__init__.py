"""What users read with kubectl: conditions, computed from problems, acks and what runs. No I/O."""
