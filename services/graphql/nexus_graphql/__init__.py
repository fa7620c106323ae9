"""The GraphQL service: one schema over the OpenAPI documents of the services that discovery knows.

`schema/` (pure) turns documents into a schema, `catalogue/` keeps documents and schema current, `execute/` runs
operations against the services, `protocol` and `http` are the endpoint, `app` wires them.
Deliberately absent: subscriptions (the realtime service has them) and any store.
"""
