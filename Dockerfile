# Every package is Debian's own, so security updates arrive by building the images anew.

# tools/postgres_versions has the pairs that belong together.
ARG BASE_IMAGE=debian:trixie-slim

# PostgreSQL with everything that the job needs on the server: PL/Python, pg_cron, python3-requests
# and python3-pil. The job itself is not installed.
FROM ${BASE_IMAGE} AS server

ARG POSTGRES_VERSION=17

RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    # Without this Debian creates and starts a cluster of its own during the installation.
    && mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/no-main-cluster.conf \
    && apt-get install --yes --no-install-recommends \
        ca-certificates \
        "postgresql-$POSTGRES_VERSION" \
        "postgresql-$POSTGRES_VERSION-cron" \
        "postgresql-plpython3-$POSTGRES_VERSION" \
        python3-pil \
        python3-requests \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/usr/lib/postgresql/$POSTGRES_VERSION/bin:$PATH \
    PGDATA=/var/lib/postgresql/data

# The directory exists with its owner before VOLUME, because a new volume copies both.
RUN install --directory --owner=postgres --group=postgres --mode=0700 "$PGDATA"
VOLUME ["/var/lib/postgresql/data"]

COPY docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh

USER postgres
EXPOSE 5432

# SIGINT is PostgreSQL's fast shutdown: it ends open sessions. Docker's default, SIGTERM, would wait for them.
STOPSIGNAL SIGINT

# A failed installation of the job leaves the file, as does an application's database that lacks something: whoever
# starts it is told.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ! cat /tmp/installation-failed 2> /dev/null && pg_isready --host=127.0.0.1 --username=postgres

ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["-c", "shared_preload_libraries=pg_cron", "-c", "cron.use_background_workers=on"]

# Writes dist/qr_refresh.sql, as `make dist` does.
FROM server AS dist

USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-psycopg \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml ./
COPY db db
RUN python3 -m db.deploy dist

# The live page and the simulated Evolution API, for the profile `demo` of compose.yaml. Debian 12's
# psycopg is too old for the page, so this image does not follow BASE_IMAGE.
FROM debian:trixie-slim AS demo

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-aiohttp python3-psycopg python3-segno \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 demo \
    # A new volume copies the owner.
    && install --directory --owner=demo --mode=0700 /run/demo
WORKDIR /src
COPY db/__init__.py db/connection.py db/url.py db/
COPY examples examples
COPY tools/__init__.py tools/compose_demo.py tools/page_role.py tools/
COPY simulator simulator
USER demo

# The server with the job: docker-entrypoint.sh installs or upgrades it at each start.
FROM server AS job

# For db/foreign_table.py, where the rows are in another database.
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-psycopg \
    && rm -rf /var/lib/apt/lists/*
COPY db/__init__.py db/connection.py db/ending.py db/foreign_table.py db/url.py /usr/local/share/refresh-qr-codes/db/
COPY db/migrations/20261124000100_create_roles.sql /usr/local/share/refresh-qr-codes/db/migrations/
USER postgres

COPY --from=dist /src/dist/qr_refresh.sql /usr/local/share/refresh-qr-codes/
