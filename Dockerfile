# nanograd and its requirements, without those of the tests:
#
#   docker build -t nanograd .
#   docker run --rm --shm-size 1g nanograd
#   docker run --rm --shm-size 1g --user "$(id -u)" -v "$PWD:/work" nanograd ingest my-pictures --output rows
#
# The first `run` is the demo. Ray keeps its objects in shared memory, of which Docker gives 64 MB by default.
FROM python:3.11-slim

WORKDIR /opt/nanograd
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY nanograd nanograd
RUN pip install --no-cache-dir -c constraints.txt .

# Any user may run it: a home for Ray's token and the cache of data, and a folder for the output.
ENV HOME=/tmp OMP_NUM_THREADS=1
RUN install -d -m 1777 /work
USER nobody
WORKDIR /work
ENTRYPOINT ["nanograd"]
CMD ["demo"]
