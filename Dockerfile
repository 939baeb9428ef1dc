# PostgreSQL with everything that refresh_qr_codes() needs on the server: PL/Python, pg_cron and python3-requests.
# Every package is Debian's own, so security updates arrive by building the image anew.
FROM debian:trixie-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    # Without this Debian creates and starts a cluster of its own during the installation.
    && mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/no-main-cluster.conf \
    && apt-get install --yes --no-install-recommends \
        ca-certificates \
        postgresql-17 \
        postgresql-17-cron \
        postgresql-plpython3-17 \
        python3-requests \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/usr/lib/postgresql/17/bin:$PATH \
    PGDATA=/var/lib/postgresql/data

# The directory exists with its owner before VOLUME, because a new volume copies both.
RUN install --directory --owner=postgres --group=postgres --mode=0700 "$PGDATA"
VOLUME ["/var/lib/postgresql/data"]

COPY docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh

USER postgres
EXPOSE 5432

# SIGINT is PostgreSQL's fast shutdown: it ends open sessions. Docker's default, SIGTERM, would wait for them.
STOPSIGNAL SIGINT

HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["pg_isready", "--quiet", "--host=127.0.0.1", "--username=postgres"]

ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["-c", "shared_preload_libraries=pg_cron", "-c", "cron.use_background_workers=on"]
