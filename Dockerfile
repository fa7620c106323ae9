# The images of Nexus and of the example shop, from one build:
#   docker build --target nexus        -t ghcr.io/nexus/nexus:0.1.0 .
#   docker build --target shop-catalog -t shop/catalog:0.1.0 .        (shop-orders, shop-web likewise)
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/nexus \
 && /opt/nexus/bin/pip install --no-cache-dir --constraint constraints.txt ".[cli]" \
 && /opt/nexus/bin/python -m compileall -q /opt/nexus/lib

FROM python:3.13-slim AS nexus
COPY --from=build /opt/nexus /opt/nexus
ENV PATH=/opt/nexus/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
# The user the chart runs it as; it needs no entry in /etc/passwd and writes only to mounted volumes.
USER 65532:65532
ENTRYPOINT ["nexus"]

FROM nexus AS shop-catalog
ENTRYPOINT ["python", "-m", "shop_catalog"]

FROM nexus AS shop-orders
ENTRYPOINT ["python", "-m", "shop_orders"]

FROM nexus AS shop-web
ENTRYPOINT ["python", "-m", "shop_web"]
