# PostgreSQL as Debian packages it, with a small hospital in it: the database of the examples.
#
#   docker build -f images/postgresql.Dockerfile -t registry.hospital.example/twinvault/postgresql:15 .
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
# The user comes first so that its number is known to Kubernetes (fsGroup, runAsUser).
# create_main_cluster: the database belongs on the volume, not into the image.
RUN groupadd --system --gid 5432 postgres \
 && useradd --system --uid 5432 --gid 5432 --no-create-home --home-dir /var/lib/postgresql \
      --shell /bin/sh postgres \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      postgresql-common python3-psycopg2 \
 && sed -ri 's/#?(create_main_cluster).*/\1 = false/' /etc/postgresql-common/createcluster.conf \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log \
 && install -d -o postgres -g postgres -m 0755 /run/postgresql /var/lib/postgresql
COPY images/postgresql/hospital.sql images/postgresql/postgresql.conf images/postgresql/pg_hba.conf \
     /usr/local/share/hospital/
COPY --chmod=0755 images/postgresql/run-postgresql images/postgresql/register-patients \
     images/postgresql/check-patients /usr/local/bin/
COPY images/postgresql/hospital_load.py /usr/local/lib/hospital/
ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin \
    PGDATA=/var/lib/postgresql/data/pgdata LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
USER 5432:5432
# Fast shutdown: sessions are ended, the database is closed cleanly.
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["run-postgresql"]
