"""What the gateways have been given and what they say of it. No I/O."""
