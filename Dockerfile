# syntax=docker/dockerfile:1
# The image: one program, for the controller and for each node. `make image` makes the same
# without an image registry: it runs deploy/image/install, too, and reads entry point and
# labels in this file's last stage.
#
#   docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD) -t rbd-csi .
#   docker build --build-arg WITH_RBD=1 …    adds the program rbd, for --map-with=rbd

# The version of rust-toolchain.toml; a test compares them.
ARG RUST=1.95.0

FROM docker.io/library/rust:${RUST}-trixie AS build
ARG RUST
# The toolchain that is here, without the components that only development needs.
ENV RUSTUP_TOOLCHAIN=${RUST}
# A stable Debian keeps one version of a package; a pinned one is gone with the next fix.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends \
        g++ libblkid-dev libclang-dev librados-dev libradospp-dev librbd-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# There is no .git here: build.rs takes the commit from this.
ARG COMMIT=unknown
ENV RBD_CSI_COMMIT=${COMMIT}
RUN cargo build --release --locked && strip -o /rbd-csi target/release/rbd-csi

FROM docker.io/library/debian:trixie-slim
ARG WITH_RBD=0
# One layer: what a later one removed would still be carried along. Mounted on a new folder
# of the root's: an engine takes away again what it mounted on, and some only the last part.
# cephcsi is the name that ceph-csi's manifests know, and their entry point.
RUN --mount=type=bind,source=deploy/image,target=/image /image/install \
    && ln -s rbd-csi /usr/local/bin/cephcsi
COPY --from=build /rbd-csi /usr/local/bin/rbd-csi
# No user is set: the node plugin has to be root, and the controller's manifest says that it
# is not.
ENTRYPOINT ["/usr/local/bin/cephcsi"]
# After what is run: these change with each commit, and would have the layer made anew.
ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="rbd-csi"
LABEL org.opencontainers.image.description="A CSI driver that gives Kubernetes pods block volumes from Ceph RBD"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.source="https://github.com/rbd-csi/rbd-csi"
LABEL org.opencontainers.image.version="${VERSION}"
LABEL org.opencontainers.image.revision="${COMMIT}"
