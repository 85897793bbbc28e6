#!/bin/bash
# One run on all workers of a Cloud TPU slice, from any machine that has gcloud.
#
#   TPU=pod ZONE=us-east1-d IMAGE=us-docker.pkg.dev/PROJECT/REPOSITORY/gato:tpu SHARED=/mnt/gato \
#     launch/clusters/tpu_vm.sh --config=gato_1_2b:/mnt/gato/data --out /mnt/gato/runs/1_2b --config.mesh.fsdp=16
#
# TPU, ZONE  the slice, e.g. of: gcloud compute tpus tpu-vm create pod --zone=us-east1-d \
#              --accelerator-type=v6e-256 --version=v2-alpha-tpuv6e
# IMAGE      built from launch/clusters/Dockerfile with ACCELERATOR=tpu, where the workers may pull from
# SHARED     a folder that is mounted on every worker (Filestore, Parallelstore, Cloud Storage FUSE): data and runs
#
# Everything else goes to `gato train`. The same line again goes on from the newest checkpoint. gcloud's TPU API ends
# with TPU v6e; newer ones are used through GKE: gke_tpu.yaml.

set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?its zone}" "${IMAGE:?the image}" "${SHARED:?folder mounted on every worker}"

# --privileged and --net=host: the container sees the TPU chips and the metadata server, which tells JAX the other
# workers. --stop-timeout: SIGTERM to SIGKILL, for the last checkpoint (default 10 s). --shm-size: at most so much for the
# batches of config.loader_workers; a container has 64 MiB, and more than that in it is a bus error.
# JAX_PLATFORMS: without it, a worker without working TPU chips would train on its processor without saying so.
# GATO_COMPILATION_CACHE: --rm deletes the container's own files; kept on the shared folder, compiled programs stay.
# No XLA flag is set: JAX and libtpu set what a TPU needs themselves (LIBTPU_INIT_ARGS adds to it).
# docker stop: what an earlier line started goes on when gcloud loses its connection. It saves and ends, and --rm frees
# its name and its chips a moment later. (docker container inspect: without the word, an image of that name is one, too.)
command="{ sudo docker stop --time=120 gato; while sudo docker container inspect gato; do sleep 1; done; } >/dev/null 2>&1;"
command+=" sudo docker run --rm --name=gato --privileged --net=host --stop-timeout=120 --shm-size=16g"
command+=" --env=JAX_PLATFORMS=tpu,cpu"
command+=" --env=$(printf '%q' "GATO_COMPILATION_CACHE=$SHARED/cache/xla")"
command+=" --volume=$(printf '%q' "$SHARED:$SHARED") $(printf '%q' "$IMAGE") train $(printf '%q ' "$@")"

exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
