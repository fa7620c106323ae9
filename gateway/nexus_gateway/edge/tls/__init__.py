"""TLS on both sides: certificates for clients (`store`), contexts for endpoints (`origination`)."""
