# Stands in for postgres:15 where only the base can be had.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update -y && \
    mkdir -p /etc/postgresql-common && \
    echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf && \
    apt-get install -y --no-install-recommends postgresql-15 && \
    install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data PATH="$PATH:/usr/lib/postgresql/15/bin"
VOLUME /var/lib/postgresql/data
