# Stands in for haproxy:3.0 where only the base can be had.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update -y && apt-get install -y --no-install-recommends haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
